"""The decoder written out for serving, against Hugging Face's."""

import pytest
import torch

from models.small import randomise
from prismrec.models import backbone
from prismrec.models.quick_decoder import QuickDecoder


@torch.inference_mode()
@pytest.mark.parametrize("key_value_heads", [1, 2])
@pytest.mark.parametrize("outputs", [1, 4, 11])
def test_states_are_those_of_hugging_face(outputs: int, key_value_heads: int) -> None:
    config = backbone.scratch_config(32, 3, 2, 0.1, 16) | {"num_key_value_heads": key_value_heads}
    model = randomise(backbone.from_config(config))
    quick = QuickDecoder.of(model)
    assert quick is not None
    inputs_BLH, mask_BL = torch.randn(3, 11, 32), torch.ones(3, 11, dtype=torch.bool)
    mask_BL[1, 2:6] = False  # the coarse interests come first, then padding
    expected = backbone.run(model, inputs_BLH, mask_BL)[:, -outputs:]
    seen = mask_BL[:, -outputs:]
    torch.testing.assert_close(quick(inputs_BLH, mask_BL, outputs)[seen], expected[seen], atol=1e-5, rtol=1e-5)


def test_architectures_that_are_not_written_out_stay_as_they_are() -> None:
    config = backbone.scratch_config(32, 1, 2, 0.1, 16)
    assert QuickDecoder.of(backbone.from_config(config | {"attention_bias": True})) is None
    assert QuickDecoder.of(backbone.from_config(config | {"hidden_act": "gelu"})) is None
