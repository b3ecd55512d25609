"""Targets: what leaves together, under which name and kind, and what stays and why."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from tests.support.noise import integers, noise
from tests.support.small_nets import Fused


class Packaged(nn.Module):
    """Attention as PyTorch has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 32), nn.Linear(32, 8)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


class Grouped(nn.Module):
    """Eight query heads of two groups, one key and value head each."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 64), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Any:
        q, k, v = (
            project(x).unflatten(2, (-1, 8)).transpose(1, 2) for project in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x)[0])


class Embedded(nn.Module):
    """A residual stream through a layer norm, and the hidden features beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(10, 16), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Any:
        x = self.table(ids)
        return self.head(self.norm(x + self.down(self.up(x).relu())))


def groups() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 5, 1)
    )


def depthwise() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 5, 1))


TOKENS, PICTURES = noise(2, 5, 16), noise(2, 3, 5, 5)
# model, inputs, kind -> sizes of the targets of that kind
NETS: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, list[int]]]] = {
    "packaged attention": (
        Packaged,
        noise(2, 5, 6),
        {"head": [4], "head_dim": [8], "hidden": [32, 32]},
    ),
    "fused attention": (Fused, TOKENS, {"head": [4], "head_dim": [8]}),
    "grouped-query attention": (Grouped, TOKENS, {"head": [2, 4], "head_dim": [8, 8]}),
    "lstm": (Recurrent, noise(2, 5, 8), {"hidden": [16]}),
    "embedding, norm, mlp": (
        Embedded,
        integers(10, 2, 3),
        {"channel": [16], "hidden": [32]},
    ),
    "grouped convolution": (groups, PICTURES, {"group": [4], "channel": [4, 8]}),
    "depthwise convolution": (depthwise, PICTURES, {"channel": [16]}),
}


@pytest.mark.parametrize("name", NETS)
def test_kinds_and_sizes(name: str) -> None:
    make, x, kinds = NETS[name]
    analysis = fxprune.analyze(make(), (x,))
    found: dict[str, list[int]] = {}
    for target in analysis.targets:
        found.setdefault(target.kind, []).append(len(target))
    assert {kind: sorted(sizes) for kind, sizes in found.items()} == kinds
    assert analysis.coverage > 0.98


@pytest.mark.parametrize("name", NETS)
def test_names_are_unique_and_say_module_and_kind(name: str) -> None:
    make, x, _ = NETS[name]
    model = make()
    targets = fxprune.analyze(model, (x,)).targets
    assert len({target.name for target in targets}) == len(targets)
    modules = dict(model.named_modules())
    for target in targets:
        module, _, kind = target.name.partition(":")
        assert module in modules
        assert kind.partition("#")[0] == target.kind
        assert str(len(target)) in str(target)


@pytest.mark.parametrize("name", NETS)
def test_every_target_can_go_by_itself(name: str) -> None:
    """Selecting one target removes from its footprint and from nowhere else."""
    make, x, _ = NETS[name]
    model = make().eval()
    for target in fxprune.analyze(model, (x,)).targets:
        spec = {"target": {"include": target.name}, "objective": {"ratio": 0.5}}
        plan = fxprune.prune(model, spec, (x,)).plan
        shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
        cut = {
            (name, axis)
            for name, axes in plan.kept.items()
            for axis, kept in enumerate(axes)
            if name in shapes and len(kept) < shapes[name][axis]
        }
        assert cut == set(target.footprint)


def test_what_is_approximate_says_where() -> None:
    stream, hidden = sorted(
        fxprune.analyze(Embedded(), (torch.randint(0, 10, (2, 3)),)).targets, key=lambda t: t.kind
    )
    assert hidden.exact
    assert not stream.exact
    assert "layer_norm" in stream.why


def test_exact_leaves_the_approximate_whole() -> None:
    ids = torch.randint(0, 10, (2, 3))
    spec = {"target": {"exact": True}, "objective": {"ratio": 0.5}}
    slim = fxprune.prune(Embedded(), spec, (ids,))
    assert slim.up.weight.shape == (16, 16)
    assert slim.table.weight.shape == (10, 16)
    loose = fxprune.prune(Embedded(), {"objective": {"ratio": 0.5}}, (ids,))
    assert any("approximate" in note for note in loose.report.notes)


# ---- what stays ----------------------------------------------------------------------------------


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x)
        hidden = torch.renorm(hidden, 2, 0, 1.0)  # no rule for this one
        return self.last(hidden)


def test_pins_name_unit_reason_operator_and_line() -> None:
    pinned = fxprune.analyze(Spectrum(), (torch.randn(2, 8),)).pinned
    (rows,) = [pin for pin in pinned if pin.unit.startswith("first.weight axis 0")]
    lines, start = inspect.getsourcelines(Spectrum)
    line = start + next(k for k, text in enumerate(lines) if "no rule" in text)
    assert "16 of 16" in rows.unit
    assert "no rule for aten.renorm.default" in rows.reason
    assert "aten.renorm.default" in rows.operator
    assert rows.source_line == f"{__file__}:{line}"
    assert str(rows).count("\n") == 0


def test_the_ends_are_pinned_for_the_caller() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    analysis = fxprune.analyze(model, (torch.randn(2, 8),))
    assert [pin.unit for pin in analysis.pinned] == [
        "0.weight axis 1 (8 of 8)",
        "2.weight axis 0 (4 of 4)",
        "2.bias axis 0 (4 of 4)",
    ]
    assert "the caller sees" in analysis.pinned[1].reason
    assert all("torch" not in pin.source_line for pin in analysis.pinned)
    covered = 16 * 8 + 16 + 4 * 16
    assert analysis.coverage == pytest.approx(covered / (covered + 4))


def test_a_model_without_targets_says_so() -> None:
    analysis = fxprune.analyze(nn.Linear(8, 4), (torch.randn(2, 8),))
    assert (analysis.targets, analysis.coverage) == ((), 0.0)
    with pytest.raises(fxprune.FxpruneError, match="no target at all"):
        fxprune.prune(nn.Linear(8, 4), {"objective": {"ratio": 0.5}}, (torch.randn(2, 8),))


def test_a_model_without_parameters_is_analyzed() -> None:
    analysis = fxprune.analyze(nn.ReLU(), (torch.randn(2, 8),))
    assert (analysis.parameters, analysis.macs, analysis.coverage) == (0, 0, 0.0)


def test_meta_tensors_are_enough() -> None:
    with torch.device("meta"):
        model, x = groups(), torch.empty(2, 3, 5, 5)
    real = fxprune.analyze(groups(), (PICTURES,))
    analysis = fxprune.analyze(model, (x,))
    assert [t.name for t in analysis.targets] == [t.name for t in real.targets]
    assert (analysis.macs, analysis.coverage) == (real.macs, real.coverage)
    with pytest.raises(fxprune.FxpruneError, match="meta device"):
        fxprune.prune(model, {"objective": {"ratio": 0.5}}, (x,))


def test_an_analysis_is_json() -> None:
    analysis = fxprune.analyze(Embedded(), (torch.randint(0, 10, (2, 3)),))
    data = json.loads(analysis.to_json())
    assert [target["units"] for target in data["targets"]] == [len(t) for t in analysis.targets]
    assert data["coverage"] == analysis.coverage
    assert {"unit", "reason", "operator", "source_line"} == set(data["pinned"][0])
