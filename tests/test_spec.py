"""Specifications: every form that is legal, and one clear line for every one that is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import FileError, FxpruneError, SpecError
from fxprune.spec import Spec

HALF = {"objective": {"ratio": 0.5}}
X = (torch.ones(2, 8),)

FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the least": ({}, {"target": {"kind": "all"}, "metric": {"name": "l2"}}),
    "a kind": ({"target": "hidden"}, {"target": {"kind": "hidden"}}),
    "kinds": ({"target": ["channel", "head"]}, {"target": {"kind": ["channel", "head"]}}),
    "one pattern": ({"target": {"include": "a.*"}}, {"target": {"include": ["a.*"]}}),
    "patterns": ({"target": {"exclude": ["a", "b"]}}, {"target": {"exclude": ["a", "b"]}}),
    "exact": ({"target": {"exact": True}}, {"target": {"exact": True}}),
    "a metric": ({"metric": "l1"}, {"metric": {"name": "l1"}}),
    "a metric's table": ({"metric": {"name": "l1"}}, {"metric": {"name": "l1"}}),
    "a metric's options": (
        {"metric": {"name": "random", "seed": 3}},
        {"metric": {"name": "random", "seed": 3}},
    ),
    "an allocation": ({"allocation": "global"}, {"allocation": {"name": "global"}}),
    "bounds": (
        {"allocation": {"name": "global", "min_keep": 2, "max_ratio": 0.5, "round_to": 8}},
        {"allocation": {"name": "global", "min_keep": 2, "max_ratio": 0.5, "round_to": 8}},
    ),
    "bounds alone": (
        {"allocation": {"round_to": 8}},
        {"allocation": {"name": "uniform", "round_to": 8}},
    ),
    "a schedule": ({"schedule": "agp"}, {"schedule": {"name": "agp"}}),
    "a whole number": ({"objective": {"macs": 1}}, {"objective": {"macs": 1.0}}),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    given, meant = FORMS[name]
    spec = Spec.of({**HALF, **given})
    found = spec.to_dict()
    for part, wanted in meant.items():
        inside = found[part]
        assert (
            inside == wanted
            if isinstance(wanted, str)
            else {key: inside[key] for key in wanted} == wanted
        )
    assert Spec.of(found) == spec
    assert Spec.of(json.loads(json.dumps(found))) == spec
    assert Spec.of(spec) is spec


def test_the_chosen_objective() -> None:
    for name, value in [("ratio", 0.0), ("params", 0.25), ("macs", 1.0)]:
        assert Spec.of({"objective": {name: value}}).objective.chosen == (name, value)


def test_a_spec_does_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        Spec.of(HALF).schedule = "other"  # type: ignore[assignment]


WRONG: dict[str, tuple[Any, str]] = {
    "no objective": ({}, "objective: is needed, as in"),
    "no table": (3, "a table is needed, not int"),
    "none": (None, "a table is needed, not NoneType"),
    "a list": ([1], "a table is needed, not list"),
    "an unknown key": ({**HALF, "objectives": 1}, 'unknown key "objectives"; did you mean "obj'),
    "a key inside": ({**HALF, "target": {"kinds": "x"}}, 'target: unknown key "kinds"; did you'),
    "a bound": ({**HALF, "allocation": {"min_kep": 1}}, 'did you mean "min_keep"?'),
    "an objective": ({"objective": {"flops": 0.5}}, 'objective: unknown key "flops"; known: ratio'),
    "two objectives": ({"objective": {"ratio": 0.5, "macs": 0.5}}, "give exactly one of ratio"),
    "no objective inside": ({"objective": {}}, "give exactly one of ratio, params, macs"),
    "a number for it": ({"objective": 0.5}, "objective: 0.5: a table is needed"),
    "a text for a number": (
        {"objective": {"macs": "half"}},
        "objective.macs: 'half': input",
    ),
    "a truth": ({"objective": {"macs": True}}, "objective.macs: True: input should be a valid num"),
    "below": ({"objective": {"macs": 0}}, "objective.macs: 0: input should be greater than 0"),
    "above": ({"objective": {"params": 1.5}}, "objective.params: 1.5: input should be less than"),
    "all of it": ({"objective": {"ratio": 1.0}}, "objective.ratio: 1.0: input should be less than"),
    "no number": ({"objective": {"macs": float("nan")}}, "objective.macs: nan"),
    "no unit at all": ({**HALF, "allocation": {"min_keep": 0}}, "allocation.min_keep: 0"),
    "half a unit": ({**HALF, "allocation": {"min_keep": 1.5}}, "allocation.min_keep: 1.5"),
    "a share above": ({**HALF, "allocation": {"max_ratio": 2}}, "allocation.max_ratio: 2"),
    "no multiple": ({**HALF, "allocation": {"round_to": 0}}, "allocation.round_to: 0"),
    "a schedule": ({**HALF, "schedule": "apg"}, 'unknown schedule "apg"; did you mean "agp"?'),
    "a number for a target": ({**HALF, "target": 3}, "target: 3: a name or a table is needed"),
    "a number for a metric": ({**HALF, "metric": 3}, "metric: 3: a name or a table is needed"),
    "a kind": ({**HALF, "target": "chanel"}, 'unknown kind "chanel"; did you mean "channel"?'),
    "one of the kinds": ({**HALF, "target": ["hidden", "hed"]}, 'did you mean "head"?'),
    "a metric": ({**HALF, "metric": "fpmg"}, 'metric: unknown metric "fpmg"; did you mean "fpgm"?'),
    "an option": (
        {**HALF, "metric": {"name": "random", "sed": 1}},
        'metric: unknown option of random "sed"; did you mean "seed"?',
    ),
    "an option of none": ({**HALF, "metric": {"name": "random", "p": 1}}, "known: seed"),
    "an option's value": (
        {**HALF, "metric": {"name": "random", "seed": "1"}},
        "metric.seed: '1': input should be a valid integer",
    ),
    "an option's choice": (
        {**HALF, "metric": {"name": "l1", "reduction": "men"}},
        'metric.reduction: unknown value "men"; did you mean "mean"?',
    ),
    "an allocation": ({**HALF, "allocation": "globl"}, 'did you mean "global"?'),
    "a kind it has not": (
        {**HALF, "target": "channel"},
        "no target of kind channel; the model",
    ),
    "an include": ({**HALF, "target": {"include": "frst"}}, 'target.include: .*mean "first"'),
    "an exclude": ({**HALF, "target": {"exclude": "lost"}}, "target.exclude: unknown module"),
    "everything out": ({**HALF, "target": {"exclude": "*"}}, "leave no target"),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.second(self.first(x).relu()).relu())


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_a_line(name: str) -> None:
    given, said = WRONG[name]
    with pytest.raises(SpecError) as error:
        fxprune.prune(Net(), given, X)
    text = str(error.value)
    assert "\n" not in text
    assert re.search(said, text) or said in text


@pytest.mark.parametrize("form", ["text", "path", "json"])
def test_files(form: str, tmp_path: Path) -> None:
    place = tmp_path / ("spec.json" if form == "json" else "spec.toml")
    toml = 'target = "hidden"\n[objective]\nratio = 0.5\n[allocation]\nround_to = 4\n'
    data = {"target": "hidden", **HALF, "allocation": {"round_to": 4}}
    place.write_text(json.dumps(data) if form == "json" else toml)
    given = str(place) if form == "text" else place
    slim = fxprune.prune(Net(), given, X)
    assert slim.plan.spec == Spec.of(data).to_dict()
    assert [target.kept for target in slim.plan.targets] == [8, 8]


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("a.toml", b"objective = ", SpecError, "not TOML"),
        ("a.json", b"{", SpecError, "not JSON"),
        ("a.toml", b"\xff\xfe", FileError, "cannot be read"),
        ("a.json", b"[1]", SpecError, "a table is needed, not list"),
        ("missing.toml", None, FileError, "No such file"),
        ("a.toml", b"[objective]\nmacs = 7", SpecError, "objective.macs: 7"),
    ],
)
def test_files_that_are_none(
    name: str, content: bytes | None, error: type[FxpruneError], said: str, tmp_path: Path
) -> None:
    place = tmp_path / name
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(error) as raised:
        Spec.of(place)
    assert said in str(raised.value)
    assert str(place) in str(raised.value)
    assert "\n" not in str(raised.value)
