"""A checkpoint that is pruned tensor by tensor is the model that is pruned in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import WriteBackError
from tests.support.checkpoints import (
    CONFIG,
    IDS,
    SPEC,
    Decoder,
    build,
    decoder,
    read,
    stored,
    written,
)

METRICS = ("l1", "l2", "linf", "lamp", "fpgm", "random")


def same(found: dict[str, torch.Tensor], slim: nn.Module) -> bool:
    state = slim.state_dict()
    return all(torch.equal(state[name], tensor) for name, tensor in found.items())


@pytest.mark.parametrize("shards", [1, 3])
def test_pruned_as_in_memory(tmp_path: Path, shards: int) -> None:
    model = decoder()
    source = written(tmp_path / "whole", stored(model), shards)
    report = fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    slim = fxprune.prune(model, SPEC, IDS)
    found = read(tmp_path / "half")
    assert found.keys() == stored(model).keys()
    assert same(found, slim)
    assert report.parameters_after == slim.report.parameters_after < report.parameters_before
    assert (tmp_path / "half" / "tokenizer.json").read_text() == "{}"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_plan_makes_a_model_that_loads_it(tmp_path: Path) -> None:
    model = decoder()
    source = written(tmp_path / "whole", stored(model))
    fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    plan = fxprune.Plan.load(tmp_path / "half" / "fxprune" / "plan.json")
    own = fxprune.apply(plan, build(CONFIG).eval())
    missing, unexpected = own.load_state_dict(read(tmp_path / "half"), strict=False)
    assert (missing, unexpected) == (["head.weight"], [])
    assert torch.equal(own(IDS), fxprune.prune(model, SPEC, IDS)(IDS))


def test_the_plan_narrows_a_model_on_the_meta_device(tmp_path: Path) -> None:
    model = decoder()
    source = written(tmp_path / "whole", stored(model))
    fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    plan = fxprune.Plan.load(tmp_path / "half" / "fxprune" / "plan.json")
    with torch.device("meta"):
        own = build(CONFIG).eval()
    fxprune.apply(plan, own)
    found = read(tmp_path / "half")
    own.load_state_dict({**found, "head.weight": found["embed.weight"]}, assign=True)
    assert torch.equal(own(IDS), fxprune.prune(model, SPEC, IDS)(IDS))


class Fixed(nn.Module):
    """A width that stands in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu().reshape(-1, 16))


def test_what_a_class_cannot_say_is_refused_on_the_meta_device_too(tmp_path: Path) -> None:
    source = written(tmp_path / "whole", stored(Fixed()), 1)
    spec = {"objective": {"ratio": 0.5}}
    fxprune.prune_checkpoint(source, spec, tmp_path / "half", Fixed, torch.zeros(2, 8))
    plan = fxprune.Plan.load(tmp_path / "half" / "fxprune" / "plan.json")
    with torch.device("meta"):
        own = Fixed()
    with pytest.raises(WriteBackError):
        fxprune.apply(plan, own)
    assert own.first.weight.shape == (16, 8)


def test_the_index_says_what_is_there(tmp_path: Path) -> None:
    source = written(tmp_path / "whole", stored(decoder()))
    fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    name = "model.safetensors.index.json"
    before, after = (json.loads((tmp_path / at / name).read_text()) for at in ("whole", "half"))
    size = sum(tensor.nbytes for tensor in read(tmp_path / "half").values())
    assert after["weight_map"] == before["weight_map"]
    assert after["metadata"] == {"total_size": size, "by": "us"}


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_of_weights(tmp_path: Path, metric: str) -> None:
    model = decoder({"layers": 1, "tied": False})
    config = {"layers": 1, "tied": False}
    spec = {"target": "all", "metric": metric, "objective": {"ratio": 0.5}}
    source = written(tmp_path / "whole", stored(model), 2, config)
    fxprune.prune_checkpoint(source, spec, tmp_path / "half", build, IDS)
    assert same(read(tmp_path / "half"), fxprune.prune(model, spec, IDS))


def test_bfloat16(tmp_path: Path) -> None:
    model = decoder().bfloat16()
    source = written(tmp_path / "whole", stored(model))
    report = fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    slim = fxprune.prune(model, SPEC, IDS)
    assert same(read(tmp_path / "half"), slim)
    assert report.bytes_before == slim.report.bytes_before


class Net(nn.Module):
    """Convolutions, batch norms, and a weight that is computed of what is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.ones(12, 1, 1, 1))
        self.second = nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.first(x)))
        weight = self.second.weight * self.scale.exp()
        y = torch.relu(nn.functional.conv2d(y, weight, self.second.bias))
        return self.head(y.mean((2, 3)))


def test_convolutions_and_computed_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        model.scale.normal_()
        model.norm.running_mean.normal_()
    x, spec = torch.randn(2, 3, 8, 8), {"objective": {"ratio": 0.5}}
    source = written(tmp_path / "whole", stored(model), 1)
    fxprune.prune_checkpoint(source, spec, tmp_path / "half", Net, x)
    assert same(read(tmp_path / "half"), fxprune.prune(model, spec, x))


def test_a_model_on_the_meta_device_may_be_given(tmp_path: Path) -> None:
    source = written(tmp_path / "whole", stored(decoder()))
    with torch.device("meta"):
        model = Decoder()
    before = {name: tensor.shape for name, tensor in model.state_dict().items()}
    fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", model, IDS.to("meta"))
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == before
    assert same(read(tmp_path / "half"), fxprune.prune(decoder(), SPEC, IDS))


def test_what_the_model_does_not_have_is_copied_if_asked(tmp_path: Path) -> None:
    extra = torch.randn(3, 5)
    source = written(tmp_path / "whole", {**stored(decoder()), "rotary.table": extra})
    report = fxprune.prune_checkpoint(
        source, SPEC, tmp_path / "half", build, IDS, copy=["rotary.*"]
    )
    assert torch.equal(read(tmp_path / "half")["rotary.table"], extra)
    assert "copied as they are: rotary.table" in report.notes


def test_lines_say_how_far_it_is(tmp_path: Path) -> None:
    source = written(tmp_path / "whole", stored(decoder()))
    lines: list[str] = []
    say: Any = lines.append
    fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS, progress=say)
    shards = [line for line in lines if line.startswith("model-0000")]
    assert len(shards) == 3
    assert all(line.endswith("B/s") for line in shards)
