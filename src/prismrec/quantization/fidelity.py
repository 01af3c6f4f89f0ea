"""What compressed vectors keep and what they cost, and a page that shows it.

Two costs, always both: *marginal* bytes of one more item (its codes and coefficients), and *amortised* bytes (the
marginal ones plus the item's share of the centroids, which all items share).
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from prismrec.metrics.codes import code_health
from prismrec.pages.style import STYLE
from prismrec.pages.svg import column_chart
from prismrec.quantization.codebook import Codebook, Codes

BINS = 20  # of the histogram of cosines, from 0 to 1; what lies below 0 counts in the first


def cosines(vectors_nD: np.ndarray, decoded_nD: np.ndarray) -> np.ndarray:
    """Cosine of each vector with its reconstruction; 0 where one of them is 0."""
    length = np.linalg.norm(vectors_nD, axis=1) * np.linalg.norm(decoded_nD, axis=1)
    cosine_n: np.ndarray = np.einsum("nd,nd->n", vectors_nD, decoded_nD) / np.maximum(length, 1e-12)
    return cosine_n


def relative_error(vectors_nD: np.ndarray, decoded_nD: np.ndarray) -> float:
    """Squared error as a share of the vectors' squared length."""
    return float(((vectors_nD - decoded_nD) ** 2).sum() / (vectors_nD**2).sum())


def fidelity(vectors_nD: np.ndarray, codebook: Codebook, codes: Codes) -> dict[str, Any]:
    """How much the compressed vectors keep, and what they cost.

    Returns:
        Mean cosine, its 5 % quantile and histogram, relative squared error, bytes an item and compression against
        float32 (marginal and amortised), and the health of the codes of every layer and jointly.
    """
    decoded_nD = codebook.decode(codes)
    cosine_n = cosines(vectors_nD, decoded_nD)
    n, dim = vectors_nD.shape
    layers, k, _ = codebook.centroids_LkD.shape
    amortised = codes.bytes_per_item + codebook.centroids_LkD.nbytes / n
    return {
        "items": n,
        "layers": layers,
        "codes": k,
        "assignment": codebook.assignment,
        "coefficients": "item" if codebook.own_coefficients else "centroid",
        "cosine_mean": float(cosine_n.mean()),
        "cosine_p05": float(np.quantile(cosine_n, 0.05)),
        "cosine_histogram": np.histogram(cosine_n.clip(0, 1), BINS, (0, 1))[0].tolist(),
        "relative_squared_error": relative_error(vectors_nD, decoded_nD),
        "bytes_per_item_marginal": float(codes.bytes_per_item),
        "bytes_per_item_amortised": float(amortised),
        "bytes_per_item_uncompressed": float(4 * dim),
        "compression_marginal": float(4 * dim / codes.bytes_per_item),
        "compression_amortised": float(4 * dim / amortised),
        **code_health(codes.codes_nL, (k,) * layers, level_name="layer"),
    }


def render_page(report: Mapping[str, Any]) -> str:
    """The report of `fidelity` as one HTML page: no script, no file beside it, no network."""
    tiles = {
        "mean cosine": (f"{report['cosine_mean']:.4f}", f"5 % of the items below {report['cosine_p05']:.4f}"),
        "relative squared error": (f"{report['relative_squared_error']:.4f}", "1: nothing is kept"),
        "bytes an item": (
            f"{report['bytes_per_item_marginal']:.0f}",
            f"{report['bytes_per_item_amortised']:,.1f} with its share of the centroids",
        ),
        "compression": (f"{report['compression_marginal']:.1f}×", f"{report['compression_amortised']:.1f}× amortised"),
        "cells in use": (f"{report['occupied_cells']:,.0f}", f"largest holds {report['largest_cell']:,.0f} items"),
    }
    listed = "".join(
        f"<li>{escape(label)}<b>{escape(value)}</b><small>{escape(note)}</small></li>"
        for label, (value, note) in tiles.items()
    )
    columns = [(f"{bin_ / BINS:.2f}", float(count)) for bin_, count in enumerate(report["cosine_histogram"])]
    chart = column_chart("Cosines of items with their reconstruction", columns, "cosine, from", "items")
    what = (
        f"{report['items']:,} items, assignment {report['assignment']}, coefficients of each {report['coefficients']}"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Codebook</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        f'<header><h1>Codebook</h1><p class="quiet">{escape(what)}</p></header>\n<main>\n'
        f'<ul class="tiles">{listed}</ul>\n'
        f"<figure><figcaption>Cosine of each item's vector with its reconstruction.</figcaption>{chart}</figure>\n"
        f"{_layer_table(report)}\n</main>\n</body>\n</html>\n"
    )


def _layer_table(report: Mapping[str, Any]) -> str:
    header = "".join(
        f'<th scope="col"{kind}>{name}</th>'
        for name, kind in (("layer", ""), *((n, ' class="number"') for n in ("codes used", "of", "perplexity")))
    )
    lines = []
    for layer in range(1, report["layers"] + 1):
        used = report["codes"] - report[f"dead_codes_layer_{layer}"]
        cells = (f"{used:,.0f}", f"{report['codes']:,}", f"{report[f'perplexity_layer_{layer}']:,.1f}")
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        lines.append(f'<tr><th scope="row">{layer}</th>{numbers}</tr>')
    note = (
        '<p class="quiet">Codes used by plain encoding; while fitting with cosine assignment, every code is used. '
        "Perplexity: how many codes would be as even if all were used alike.</p>"
    )
    return (
        f'<div class="scroll"><table><caption>Codes of each layer</caption><thead><tr>{header}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{note}"
    )
