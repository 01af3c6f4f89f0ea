"""Nodes of `codebook`; `prismrec.quantization` does the work."""

from typing import Any

import numpy as np

from prismrec.parameters.codebook import CodebookParameters


def fit_codebook(item_vectors: dict[str, np.ndarray], parameters: CodebookParameters) -> Any:
    """Fit on the recommendable items' vectors, and on what each would be without its behavioural part."""
    from prismrec.quantization.codebook import Codebook

    known = item_vectors["recommendable"]
    vectors = np.concatenate([item_vectors["vectors"][known], item_vectors["text_only"][known]])
    return Codebook.fit(vectors, **parameters.model_dump())


def encode_items(codebook: Any, item_vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Codes of every known item, with its coefficients where those are stored."""
    stored: dict[str, np.ndarray] = codebook.encode(item_vectors["vectors"]).arrays()
    return stored


def measure_fidelity(
    codebook: Any, item_codes: dict[str, np.ndarray], item_vectors: dict[str, np.ndarray]
) -> tuple[dict[str, Any], str]:
    """What the codes keep of the recommendable items' vectors, and what they cost: figures, and a page of them."""
    from prismrec.quantization.codebook import Codes
    from prismrec.quantization.fidelity import fidelity, render_page

    known = item_vectors["recommendable"]
    report = fidelity(item_vectors["vectors"][known], codebook, Codes.from_arrays(item_codes).take(known))
    return report, render_page(report)
