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
    "a schedule's options": (
        {"schedule": {"name": "movement", "steps": 4, "cooldown": 2}},
        {"schedule": {"name": "movement", "steps": 4, "cooldown": 2}},
    ),
    "a normalised metric": (
        {"metric": {"name": "l1", "normalize": "mean"}},
        {"metric": {"name": "l1", "normalize": "mean"}},
    ),
    "a module type": ({"target": {"type": "Conv2d"}}, {"target": {"type": ["Conv2d"]}}),
    "sizes": (
        {"target": {"min_units": 8, "max_units": 64}},
        {"target": {"min_units": 8, "max_units": 64}},
    ),
    "a metric of its own": (
        {"target": {"kind": "head", "metric": "l1"}},
        {"target": {"kind": "head", "metric": {"name": "l1"}}},
    ),
    "bounds of its own": (
        {"target": {"min_keep": 2, "min_ratio": 0.1, "max_ratio": 0.5, "round_to": "auto"}},
        {"target": {"min_keep": 2, "min_ratio": 0.1, "max_ratio": 0.5, "round_to": "auto"}},
    ),
    "another objective": ({"objective": {"bytes": 0.3}}, {"objective": {"bytes": 0.3}}),
    "a preset": (
        {"preset": "agp"},
        {"schedule": {"name": "agp", "steps": 5}, "metric": {"name": "l2"}},
    ),
    "a preset with another metric": (
        {"preset": "agp", "metric": "l1"},
        {"schedule": {"name": "agp", "steps": 5}, "metric": {"name": "l1"}},
    ),
    "a preset with another option": (
        {"preset": "agp", "schedule": {"steps": 3}, "allocation": {"round_to": 4}},
        {"schedule": {"name": "agp", "steps": 3}, "allocation": {"name": "uniform", "round_to": 4}},
    ),
    "a preset with another schedule": (
        {"preset": "agp", "schedule": "one-shot"},
        {"schedule": {"name": "one-shot"}},
    ),
}


def test_several_selections() -> None:
    spec = Spec.of({**HALF, "target": [{"kind": "head"}, {"kind": "hidden", "max_ratio": 0.5}]})
    assert [one.kind for one in spec.target] == ["head", "hidden"]
    assert [one.max_ratio for one in spec.target] == [None, 0.5]
    assert Spec.of(spec.to_dict()) == spec


def test_a_preset_by_name_and_its_parts() -> None:
    assert Spec.of("l1") == Spec.of({"preset": "l1"})
    assert Spec.of({"preset": "l1", **HALF}).objective.chosen == ("ratio", 0.5)


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
    "no selection": ({**HALF, "target": []}, "target: []: at least one selection is needed"),
    "a selection": ({**HALF, "target": [{"kind": "all"}, 3]}, "target.1: 3: a name or a table"),
    "a key of a selection": (
        {**HALF, "target": [{"kind": "all"}, {"kinds": "x"}]},
        'target.1: unknown key "kinds"; did you mean "kind"?',
    ),
    "a kind of a selection": (
        {**HALF, "target": [{"kind": "all"}, {"kind": "hed"}]},
        'target.1.kind: unknown kind "hed"; did you mean "head"?',
    ),
    "a number as a kind": ({**HALF, "target": {"kind": 3}}, "target.kind: 3: a text or a list"),
    "a number as a pattern": (
        {**HALF, "target": {"include": ["a", 3]}},
        "target.include.1: 3: a text is needed",
    ),
    "a type it has not": (
        {**HALF, "target": {"type": "Linea"}},
        'target.type: unknown module type "Linea"; did you mean "Linear"?',
    ),
    "a number as a type": ({**HALF, "target": {"type": 3}}, "target.type: 3: a text or a list"),
    "one unit": ({**HALF, "target": {"min_units": 1}}, "target.min_units: 1: input should be"),
    "half a size": (
        {**HALF, "target": {"max_units": 2.5}},
        "target.max_units: 2.5: a whole number is needed",
    ),
    "a size that none has": ({**HALF, "target": {"min_units": 99}}, "leave no target"),
    "no truth": ({**HALF, "target": {"exact": "yes"}}, "target.exact: 'yes': true or false"),
    "a metric of its own": (
        {**HALF, "target": {"metric": "l7"}},
        'target.metric: unknown metric "l7"; known: ',
    ),
    "an option of that": (
        {**HALF, "target": [{"metric": {"name": "l1", "reduction": "men"}}]},
        'target.metric.reduction: unknown value "men"; did you mean "mean"?',
    ),
    "bounds crossed": (
        {**HALF, "target": {"min_ratio": 0.9, "max_ratio": 0.1}},
        "target: min_ratio=0.9 is above max_ratio=0.1",
    ),
    "bounds of all crossed": (
        {**HALF, "allocation": {"min_ratio": 0.9, "max_ratio": 0.1}},
        "allocation: min_ratio=0.9 is above max_ratio=0.1",
    ),
    "no normalisation": (
        {**HALF, "metric": {"name": "l1", "normalize": "meen"}},
        'metric.normalize: unknown value "meen"; did you mean "mean"? known: none, mean',
    ),
    "no number of steps": (
        {**HALF, "schedule": {"name": "agp", "step": 3}},
        'schedule: unknown option of agp "step"; did you mean "steps"?',
    ),
    "half a step": (
        {**HALF, "schedule": {"name": "agp", "steps": 2.5}},
        "schedule.steps: 2.5: input should be a valid integer",
    ),
    "no step": ({**HALF, "schedule": {"name": "agp", "steps": 0}}, "schedule: steps=0: 1 or more"),
    "a start above": (
        {**HALF, "schedule": {"name": "agp", "initial": 2.0}},
        "schedule: initial=2: 0 or more, and below 1, is needed",
    ),
    "less than no training": (
        {**HALF, "schedule": {"warmup": -1}},
        "schedule: warmup=-1: 0 or more is needed",
    ),
    "nothing but cooling": (
        {**HALF, "schedule": {"name": "movement", "steps": 2, "cooldown": 2}},
        "schedule: cooldown=2: 0 to 1 is needed",
    ),
    "an option of the objective": (
        {"objective": {"macs": 0.5, "device": "cpu"}},
        'objective: unknown option of macs "device"; known: none',
    ),
    "a preset": ({"preset": "apg"}, 'preset: unknown preset "apg"; did you mean "agp"?'),
    "a preset by name": ("apg", 'unknown preset "apg"; did you mean "agp"?'),
    "a file's name without its end": ("spec.tom", "A file's name ends in .toml, .yaml or .json"),
    "no name of a preset": ({"preset": 3}, "preset: 3: the name of a preset is needed"),
    "an option of a preset": (
        {"preset": "agp", "schedule": {"stps": 3}},
        'schedule: unknown option of agp "stps"; did you mean "steps"?',
    ),
    "an axis of a preset": ({"preset": "agp", "metric": "l7"}, 'metric: unknown metric "l7"'),
    "an evaluator": ({**HALF, "allocation": "simulated-annealing"}, "evaluate is missing"),
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
    assert said in text or re.search(said, text)


TOML = 'target = "hidden"\n[objective]\nratio = 0.5\n[allocation]\nround_to = 4\n'
YAML = "target: hidden\nobjective: {ratio: 0.5}\nallocation:\n  round_to: 4\n"


@pytest.mark.parametrize("form", ["text", "path", "json", "yaml", "yml"])
def test_files(form: str, tmp_path: Path) -> None:
    place = tmp_path / ("spec.toml" if form in ("text", "path") else f"spec.{form}")
    data = {"target": "hidden", **HALF, "allocation": {"round_to": 4}}
    place.write_text({"json": json.dumps(data), "yaml": YAML, "yml": YAML}.get(form, TOML))
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
        ("a.yaml", b"a: [", SpecError, "not YAML"),
        ("a.yaml", b"", SpecError, "a table is needed, not NoneType"),
        ("a.yaml", b"!!python/object/apply:os.getcwd []", SpecError, "not YAML"),
        ("a.yml", b"preset: agp\nmetric: l7", SpecError, 'metric: unknown metric "l7"'),
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
