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
from tests.spec.wrong_specs import HALF, WRONG

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
    "training": (
        {"fine_tune": {"epochs": 3, "lr": 1, "clip": 2.0, "distance": "mse"}},
        {"fine_tune": {"epochs": 3, "lr": 1, "clip": 2.0, "distance": "mse"}},
    ),
    "a preset that trains otherwise": (
        {"preset": "recover", "fine_tune": {"epochs": 3}},
        {"fine_tune": {"epochs": 3, "lr": 0.01, "distillation": 1.0, "features": 1.0}},
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
        ("a.yaml", b"metric: l2\nmetric: l1\n", SpecError, "metric is given twice"),
        ("a.yml", b"a: {b: 1, b: 2}\n", SpecError, "b is given twice"),
        ("a.json", b'{"a": {"b": 1, "b": 2}}', SpecError, "b is given twice"),
        ("a.toml", b"a = 1\na = 2\n", SpecError, "not TOML"),
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
