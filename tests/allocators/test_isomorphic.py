"""Isomorphic allocation ranks targets of one structure together, and no others."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fxprune
from fxprune import pipeline
from fxprune.capture import capture
from fxprune.passes import make as make_pass
from fxprune.targets import Selection
from tests.support.small_blocks import IMAGES, TOKENS, Blocks, Transformer


def groups(model: nn.Module, inputs: Any) -> list[set[str]]:
    program = pipeline.run(capture(model.eval(), inputs), [make_pass("couple", {})])
    found: dict[tuple[str, ...], set[str]] = {}
    for target in program[Selection].targets:
        found.setdefault(target.structure, set()).add(target.name)
    return list(found.values())


def test_structures_of_a_resnet() -> None:
    assert groups(Blocks(), IMAGES) == [
        {"stem:channel"},
        {"down.0:channel", "down.1:channel", "down.2:channel"},
    ]


def test_structures_of_a_transformer() -> None:
    found = groups(Transformer(), TOKENS)
    assert {"up.0:hidden", "up.1:hidden"} in found
    assert sum(any(":head" in name for name in group) for group in found) >= 1
    for group in found:
        assert len({name.split(":")[1] for name in group}) == 1, "a group is of one kind"
        assert len(group) == 2 or "norm" in "".join(group) or not group & {"up.0:hidden"}
    heads = [group for group in found if any(name.endswith(":head") for name in group)]
    assert [len(group) for group in heads] == [2]


def test_isomorphic_ranks_equal_blocks_together_and_no_others() -> None:
    model = Blocks().eval()
    with torch.no_grad():
        for part in (model.down[1], model.bn1[1], model.up[1]):
            part.weight *= 1e-3
    spec = {
        "metric": "l1",
        "objective": {"ratio": 0.25},
        "allocation": {"name": "isomorphic", "normalize": "none", "round_to": 1},
    }
    targets = {t.name: t for t in fxprune.prune(model, spec, IMAGES).report.targets}
    kept = {name.split(":")[0]: t.kept for name, t in targets.items()}
    assert kept == {"stem": 18, "down.0": 16, "down.1": 8, "down.2": 48}
    spec["allocation"]["name"] = "global"  # type: ignore[index]
    targets = {t.name: t for t in fxprune.prune(model, spec, IMAGES).report.targets}
    assert targets["stem:channel"].kept == 24, "in one ranking over all, the stream stays whole"


def test_groups_lose_the_same_share_step_by_step() -> None:
    spec = {
        "objective": {"ratio": 0.5},
        "allocation": {"name": "isomorphic", "round_to": 1},
        "schedule": {"name": "linear", "steps": 3},
    }
    targets = fxprune.prune(Blocks(), spec, IMAGES).report.targets
    stem, *inner = targets
    assert stem.kept == 12
    assert sum(t.kept for t in inner) == 48
    assert len({t.kept / t.units for t in inner}) > 1  # ranked together, not each by itself
