"""The class that config.json names is taken from transformers, and its names of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fxprune
from fxprune.errors import InputError
from tests.support.checkpoints import read

transformers: Any = pytest.importorskip("transformers")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SPEC = {"target": ["hidden", "head"], "objective": {"params": 0.85}}


@pytest.mark.parametrize("tied", [False, True])
def test_a_decoder(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **SIZES,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=tied,
    )
    ids = torch.arange(24).reshape(2, 12)
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "whole", max_shard_size="30KB")
    fxprune.prune_checkpoint(tmp_path / "whole", SPEC, tmp_path / "half", inputs=(ids,))
    model.config.use_cache = False
    slim = fxprune.prune(model, SPEC, (ids,))
    state = slim.state_dict()
    found = read(tmp_path / "half")
    assert ("lm_head.weight" in found) is not tied
    assert all(torch.equal(state[name], tensor) for name, tensor in found.items())


def test_names_that_are_stored_otherwise(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SIZES, num_attention_heads=4, image_size=16, patch_size=8)
    model = transformers.ViTModel(config).eval()
    model.save_pretrained(tmp_path / "whole")
    x = torch.randn(2, 3, 16, 16)
    report = fxprune.prune_checkpoint(tmp_path / "whole", SPEC, tmp_path / "half", inputs=(x,))
    before, after = read(tmp_path / "whole"), read(tmp_path / "half")
    assert before.keys() == after.keys()
    slim = fxprune.prune(model, SPEC, (x,))
    counts = sum(tensor.numel() for tensor in after.values())
    assert counts == report.parameters_after == slim.report.parameters_after


def test_a_config_that_is_none(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**SIZES, num_attention_heads=4, vocab_size=64)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "whole")
    place = tmp_path / "whole" / "config.json"
    place.write_text(place.read_text().replace('"llama"', '"lama"'))
    with pytest.raises(InputError, match="LlamaForCausalLM cannot be built of"):
        fxprune.prune_checkpoint(
            tmp_path / "whole", SPEC, tmp_path / "half", inputs=(torch.zeros(2, 8).long(),)
        )
