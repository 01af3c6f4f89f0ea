"""bfloat16 where the device multiplies in it, fp32 and one log line elsewhere."""

import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from prismrec.models import precision
from prismrec.models.precision import autocast, multiplies_bfloat16


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Every test asks anew."""
    multiplies_bfloat16.cache_clear()
    yield
    multiplies_bfloat16.cache_clear()


def mkldnn_says(answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = SimpleNamespace(mkldnn=SimpleNamespace(_is_mkldnn_bf16_supported=lambda: answer))
    monkeypatch.setattr(precision.torch, "ops", ops)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("made_for_it", [True, False])
def test_products_are_made_in_bfloat16_where_asked_for_and_made_for(
    made_for_it: bool, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkldnn_says(made_for_it, monkeypatch)
    a = torch.eye(2)
    with autocast("cpu", bf16):
        product = a @ a
    assert product.dtype == precision.precision("cpu", bf16)
    assert product.dtype == (torch.bfloat16 if bf16 and made_for_it else torch.float32)


def test_a_device_without_is_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    mkldnn_says(False, monkeypatch)
    with caplog.at_level(logging.WARNING):
        autocast("cpu", bf16=False)
        assert not caplog.messages, "nobody asked for it"
        autocast("cpu")
        autocast("cpu")
    assert caplog.messages == ["This CPU has no bfloat16 arithmetic: computing in fp32 instead."]


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_only_emulates_has_none(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert multiplies_bfloat16("cuda") == native


def test_the_answer_is_this_machines() -> None:
    """Where the answer is yes, a product in bfloat16 takes about as long as in fp32; else far longer."""
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(5):
        for dtype in seconds:
            a = torch.ones(256, 256, dtype=dtype)
            started = time.perf_counter()
            a @ a
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    assert (seconds[torch.bfloat16] < 8 * seconds[torch.float32]) == multiplies_bfloat16("cpu")
