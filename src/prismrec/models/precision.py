"""Where bfloat16 pays (our choice): autocast on devices that multiply matrices in it, fp32 on all others.

A CPU without AVX-512 or Arm's bfloat16 instructions takes such a product apart number by number, many times slower
than in fp32. What is asked for in bfloat16 is computed in fp32 there, and one log line says so.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch

logger = logging.getLogger(__name__)


@lru_cache(maxsize=8)
def multiplies_bfloat16(device_type: str) -> bool:
    """Whether this kind of device ("cpu", "cuda") multiplies matrices in bfloat16.

    The first answer of no is logged. The answer is torch's own about its kernels and is not measured, so that a
    machine always gives the same one.
    """
    if device_type == "cpu":
        fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    elif device_type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = True
    if not fast:
        logger.warning("This %s has no bfloat16 arithmetic: computing in fp32 instead.", device_type.upper())
    return fast


def precision(device_type: str, bf16: bool = True) -> torch.dtype:
    """What matrix products are computed in where bfloat16 is asked for, or is not."""
    return torch.bfloat16 if bf16 and multiplies_bfloat16(device_type) else torch.float32


def autocast(device_type: str, bf16: bool = True) -> torch.autocast:
    """A context whose matrix products are computed in `precision`."""
    return torch.autocast(device_type, torch.bfloat16, enabled=precision(device_type, bf16) == torch.bfloat16)
