"""Keep freed memory in the process while training on a CPU.

Each training step allocates the same few large tensors. By default glibc hands every one of them back to the system
and faults it in again page by page, which here took longer than the arithmetic. Our choice: two `mallopt` settings,
made once before training. Elsewhere than on glibc nothing is done, and nothing is lost but time.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let freed blocks stay in the heap. Returns whether the C library took the settings."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
