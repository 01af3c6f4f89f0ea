"""Nodes of `codebook`; `prismrec.quantization.cosine_codebook` does the work."""

from typing import Any

import numpy as np

from prismrec.parameters.codebook import CodebookParameters


def fit_codebook(item_vectors: dict[str, np.ndarray], parameters: CodebookParameters) -> Any:
    """Fit on the recommendable items' vectors, and on what each would be without its behavioural part."""
    from prismrec.quantization.cosine_codebook import CosineCodebook

    known = item_vectors["recommendable"]
    vectors = np.concatenate([item_vectors["vectors"][known], item_vectors["text_only"][known]])
    return CosineCodebook.fit(vectors, parameters.layers, parameters.codes, parameters.iterations, parameters.seed)


def encode_items(codebook: Any, item_vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Codes and coefficients of every known item."""
    codes = codebook.encode(item_vectors["vectors"])
    return {"codes": codes.codes_nL, "coefficients": codes.coefficients_nL}


def measure_fidelity(
    codebook: Any, item_codes: dict[str, np.ndarray], item_vectors: dict[str, np.ndarray]
) -> dict[str, float]:
    """What the codes keep of the recommendable items' vectors, and what they cost."""
    from prismrec.quantization.cosine_codebook import Codes, fidelity

    known = item_vectors["recommendable"]
    codes = Codes(item_codes["codes"][known], item_codes["coefficients"][known])
    return fidelity(item_vectors["vectors"][known], codebook, codes)
