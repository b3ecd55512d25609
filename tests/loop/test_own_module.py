from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import SpecError, WriteBackError
from tests.support.noise import noise
from tests.support.own_classes import IMAGE, TOKENS, Convolutions, Decoder, Literal, config

HALF = {"objective": {"ratio": 0.5}}
SEQUENCE = noise(2, 5, 32)


def test_the_result_is_of_the_models_class() -> None:
    model = Convolutions().eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    own = fxprune.prune(model, HALF, (IMAGE,), result="module")
    assert type(own) is Convolutions
    assert own.stem.out_channels < 16
    assert own.report.parameters_after == sum(p.numel() for p in own.parameters())
    assert own.plan.kept.keys() == {n for n, _ in own.named_parameters()} | {
        f"norm.{name}" for name in ("running_mean", "running_var")
    }
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert not hasattr(model, "plan")
    copy.deepcopy(own).train()(IMAGE).sum().backward()


def test_what_its_class_cannot_say_is_left_out() -> None:
    model = Literal()
    own = fxprune.prune(model, HALF, (SEQUENCE,), result="module")
    assert (own.up.out_features, own.qkv.out_features) == (32, 96)
    assert any("qkv:head" in note and "own_classes.py:" in note for note in own.report.notes)
    spec = {"target": {"include": "qkv"}, **HALF}
    with pytest.raises(WriteBackError, match="no target is left"):
        fxprune.prune(model, spec, (SEQUENCE,), result="module")


def test_a_choice_that_cannot_be_written_back_is_made_again() -> None:
    """Half of all heads' widths can be said; other widths for queries and values cannot."""
    model = Decoder(config(heads=4)).eval()
    chosen = [
        {"kind": "head_dim", "include": "*.q", "max_ratio": 0.25},
        {"kind": "head_dim", "include": "*.v"},
        {"kind": "hidden", "include": "*.up"},
    ]
    own = fxprune.prune(model, {"target": chosen, **HALF}, (TOKENS,), result="module")
    assert (own.layers[0].attention.head_dim, own.layers[0].up.out_features) == (4, 24)
    assert any("head_dim = 4 would have to be" in note for note in own.report.notes)


def test_an_optimizer_ends_with_the_module() -> None:
    model = Convolutions()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(IMAGE).sum().backward()
    optimizer.step()
    own = fxprune.prune(model, HALF, (IMAGE,), result="module", optimizer=optimizer)
    held = [one for group in optimizer.param_groups for one in group["params"]]
    assert {id(one) for one in held} == {id(one) for one in own.parameters()}
    assert optimizer.state[own.stem.weight]["momentum_buffer"].shape == own.stem.weight.shape


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(SpecError, match='unknown form "class"'):
        fxprune.prune(nn.Linear(2, 2), HALF, (noise(2, 2),), result="class")  # type: ignore[call-overload]
