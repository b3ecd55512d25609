"""Fixed widths and ratios, modules instead of names, and all that is wrong said at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import SpecError, SpecErrors
from fxprune.spec import Spec

X = (torch.zeros(2, 8),)


def net() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).eval()


def kept(spec: dict[str, Any], model: nn.Module | None = None) -> list[int]:
    slim = fxprune.prune(model or net(), spec, X)
    return [len(slim.plan.kept[f"{k}.weight"][0]) for k in (0, 2, 4)]


FIXED: dict[str, tuple[dict[str, Any], list[int]]] = {
    "a ratio": ({"target": {"include": "2", "ratio": 0.25}}, [16, 12, 12]),
    "a width": ({"target": {"include": "2", "width": 5}}, [16, 5, 12]),
    "a ratio of all": ({"target": {"ratio": 0.5}}, [8, 8, 6]),
    "a ratio between two units": ({"target": {"ratio": 0.3}}, [12, 12, 9]),  # no more than asked
    "several": (
        {"target": [{"include": "0", "width": 3}, {"include": ["2", "4"], "ratio": 0.5}]},
        [3, 8, 6],
    ),
    "every unit": ({"target": {"include": "2", "width": 16}}, [16, 16, 12]),
    "in steps": ({"target": {"include": "2", "ratio": 0.5}, "schedule": "agp"}, [16, 8, 12]),
    "beside an objective": (
        {
            "target": [{"include": "2", "width": 16}, {"include": ["0", "4"]}],
            "objective": {"ratio": 0.5},
            "allocation": "global",
        },
        [16, 16, 12],
    ),
}


@pytest.mark.parametrize("name", FIXED)
def test_what_is_fixed_is_kept(name: str) -> None:
    spec, wanted = FIXED[name]
    found = kept(spec)
    if name == "beside an objective":
        assert found[1] == 16
        assert sum(found) == 44 - 22  # the others lose the half of all units
    else:
        assert found == wanted


def test_the_steps_of_a_fixed_width_come_nearer_and_nearer() -> None:
    widths: list[int] = []

    def tune(module: nn.Module, step: int) -> None:
        widths.append(module.get_parameter("2.weight").shape[0])

    spec = {"target": {"include": "2", "width": 4}, "schedule": {"name": "linear", "steps": 3}}
    slim = fxprune.prune(net(), spec, X, fine_tune=tune)
    assert widths == [12, 8, 4]
    assert not [note for note in slim.report.notes if "objective" in note]


def test_it_is_the_least_important_units_that_leave() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[:4] *= 10
    slim = fxprune.prune(model, {"target": {"include": "2", "width": 4}}, X)
    assert slim.plan.kept["2.weight"][0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_modules_are_named_by_themselves(field: str) -> None:
    model = net()
    spec = {"target": {field: [model[2]], "ratio": 0.5}}
    wanted = [16, 8, 12] if field == "include" else [8, 16, 6]
    assert kept(spec, model) == wanted
    assert kept({"target": {field: [model[2], "4"], "ratio": 0.5}}, model)[2] == (
        6 if field == "include" else 12
    )
    family = fxprune.prune_family(
        model, {**spec, "objective": {"ratio": 0.5}, "target": {field: model[2]}}, X, sweep=[0.25]
    )
    assert len(family.members) == 1


REFUSED: dict[str, tuple[Any, str]] = {
    "both": ({"ratio": 0.5, "width": 4}, "ratio and width both say how much is kept"),
    "bounds as well": ({"width": 4, "min_keep": 2}, "width says how much is kept: leave out min_k"),
    "all of it": ({"ratio": 1.0}, "target.ratio: 1.0: input should be less than 1"),
    "nothing": ({"width": 0}, "target.width: 0: input should be greater than or equal to 1"),
    "more than there is": ({"include": "2", "width": 17}, "2:hidden has 16 units, and 17 are"),
    "of blocks": ({"kind": "block", "width": 4}, "width counts units, and blocks have none"),
    "another model's module": ({"exclude": nn.Identity(), "ratio": 0.5}, "that is no part"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    target, said = REFUSED[name]
    with pytest.raises(SpecError, match=said):
        fxprune.prune(net(), {"target": target}, X)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SpecErrors) as caught:
        Spec.of(
            {
                "target": [{"kind": "hed", "min_units": 1}, {"knd": "x"}],
                "metric": "l7",
                "schedule": {"name": "agp", "step": 3},
                "objective": {"macs": "half"},
                "allocatoin": "global",
            }
        )
    lines = caught.value.lines
    assert [line for line in lines if "target.0.min_units: 1" in line]
    assert [line for line in lines if 'target.1: unknown key "knd"' in line]
    assert [line for line in lines if 'unknown metric "l7"' in line]
    assert [line for line in lines if 'unknown option of agp "step"' in line]
    assert [line for line in lines if 'unknown key "allocatoin"' in line]
    assert str(caught.value).splitlines() == list(lines)


def test_names_of_two_axes_are_said_at_once() -> None:
    with pytest.raises(SpecErrors) as caught:
        Spec.of({"metric": "l7", "schedule": "apg", "objective": {"flops": 0.5}})
    assert len(caught.value.lines) == 3
