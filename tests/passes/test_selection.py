"""Selecting targets: patterns name what a module makes, not what it reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import SpecError
from tests.support.noise import noise


def network() -> nn.Module:
    """Return two stages and a classifier, each stage reading what the one before makes."""
    model = nn.Sequential()
    model.add_module("first", nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()))
    model.add_module("second", nn.Sequential(nn.Conv2d(16, 32, 3), nn.ReLU()))
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("head", nn.Linear(32, 10))
    return model.eval()


@pytest.mark.parametrize(
    ("target", "widths"),
    [
        ({"include": ["second"]}, (16, 16)),
        ({"include": ["second.*"]}, (16, 16)),
        ({"include": "second.0.weight"}, (16, 16)),
        ({"exclude": ["second"]}, (8, 32)),
        ({"exclude": ["head"]}, (8, 16)),  # pinned anyway: many exclude the classifier by habit
        ({"include": ["*"], "exclude": ["first.0"]}, (16, 16)),
    ],
)
def test_patterns_name_what_makes_the_units(
    target: dict[str, Any], widths: tuple[int, int]
) -> None:
    spec = {"target": target, "objective": {"ratio": 0.5}}
    slim = fxprune.prune(network(), spec, (torch.randn(2, 3, 12, 12),))
    state = slim.state_dict()
    assert (len(state["first.0.weight"]), len(state["second.0.weight"])) == widths


def test_a_pattern_that_names_nothing_is_an_error_with_a_guess() -> None:
    spec = {"target": {"exclude": ["secnd.0"]}, "objective": {"ratio": 0.5}}
    with pytest.raises(fxprune.FxpruneError, match=r"target.exclude.*did you mean .second.0"):
        fxprune.prune(network(), spec, (torch.randn(2, 3, 12, 12),))


# ---- several selections --------------------------------------------------------------------------

X = (noise(2, 3, 12, 12),)


def kept(target: Any, **spec: Any) -> dict[str, list[int]]:
    given = {"target": target, "objective": {"ratio": 0.5}, **spec}
    torch.manual_seed(0)
    slim = fxprune.prune(network(), given, X)
    return {name: slim.plan.kept[f"{name}.weight"][0].tolist() for name in ("first.0", "second.0")}


@pytest.mark.parametrize(
    ("target", "widths"),
    [
        ({"type": "Conv2d"}, (8, 16)),
        ({"type": "torch.nn.*.Conv2d"}, (8, 16)),
        ({"type": ["Conv2d"], "exclude": "first"}, (16, 16)),
        ({"min_units": 17}, (16, 16)),
        ({"max_units": 16}, (8, 32)),
        ({"min_units": 16, "max_units": 32}, (8, 16)),
        ([{"include": "first"}, {"include": "second"}], (8, 16)),
        ([{"include": "second"}], (16, 16)),
        ([{"include": "first", "max_ratio": 0.25}, {"include": "second"}], (12, 16)),
        ([{"include": "first", "min_keep": 15}, {"include": "second"}], (15, 16)),
        ([{"include": "first", "round_to": 16}, {"include": "second"}], (16, 16)),
    ],
)
def test_types_sizes_and_bounds_of_each_selection(target: Any, widths: tuple[int, int]) -> None:
    found = kept(target, objective={"ratio": 0.5})
    assert (len(found["first.0"]), len(found["second.0"])) == widths


def test_a_selection_has_a_metric_of_its_own() -> None:
    """By chance with another seed, each selection falls to its own."""
    one, other = {"name": "random", "seed": 1}, {"name": "random", "seed": 2}
    first, second = {"include": "first"}, {"include": "second"}
    by_one, by_other = kept("all", metric=one), kept("all", metric=other)
    assert by_one != by_other
    alone = [kept(part | {"metric": metric}) for part, metric in ((first, one), (second, other))]
    mixed = kept([first | {"metric": one}, second], metric=other)
    assert mixed["first.0"] == alone[0]["first.0"]
    assert kept([first, second], metric="l2") == kept("all", metric="l2")


def test_a_share_that_must_go_goes_first() -> None:
    found = kept(
        [{"include": "first", "min_ratio": 0.75}, {"include": "second"}],
        objective={"ratio": 0.25},
        allocation="global",
    )
    assert len(found["first.0"]) <= 4


WRONG: dict[str, tuple[Any, str]] = {
    "overlapping": (
        [{"include": "first"}, {"type": "Conv2d"}],
        r"target\.1: first\.0:\w+ is in an earlier selection too; exclude it from one of them",
    ),
    "overlapping wholly": ([{"kind": "all"}, {"kind": "all"}], r"target\.1: .* earlier selection"),
    "a kind that is not there": ([{}, {"kind": "head"}], r"target\.1: no target of kind head; the"),
    "a pattern of nothing": (
        [{"include": "first"}, {"include": "secnd"}],
        r'target\.1\.include: unknown module "secnd"; did you mean "second',
    ),
    "a type of nothing": (
        {"type": "LayerNorm"},
        r'target\.type: unknown module type "LayerNorm"; known: ',
    ),
    "a size of nothing": ({"min_units": 33}, r"target: .* together leave no target; relax one"),
    "sizes crossed": ({"min_units": 20, "max_units": 10}, r"leave no target"),
    "one that leaves nothing": (
        [{"include": "first"}, {"include": "second", "exclude": "second"}],
        r"target\.1: .* leave no target",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_selection_of_nothing_or_of_the_same_is_an_error(name: str) -> None:
    target, said = WRONG[name]
    with pytest.raises(SpecError, match=said) as error:
        kept(target)
    assert "\n" not in str(error.value)


def test_selections_mean_the_same_in_every_step() -> None:
    target = [{"max_units": 16, "max_ratio": 0.5}, {"min_units": 17}]
    slim = fxprune.prune(
        network(),
        {"target": target, "schedule": {"name": "linear", "steps": 4}, "objective": {"ratio": 0.5}},
        X,
    )
    assert [(one.units, one.kept) for one in slim.plan.targets] == [(16, 8), (32, 16)]
