"""Specifications that ask for more than anybody can mean are refused, and say what is legal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fxprune.errors import FileError, SpecError
from fxprune.passes import make
from fxprune.spec import Spec

HUGE = 10**9
BEYOND = 10**30
DIGITS = 10**5000


def schedule(**options: Any) -> dict[str, Any]:
    return {"schedule": {"name": "agp", **options}}


def allocation(name: str, **options: Any) -> dict[str, Any]:
    return {"allocation": {"name": name, **options}}


def target(**options: Any) -> dict[str, Any]:
    return {"target": {"kind": "block" if "block" in options else "all", **options}}


def goal(name: str, value: Any, **options: Any) -> dict[str, Any]:
    return {"objective": {name: value, **options}}


FEW = "10,000 or fewer are needed"
ABSURD: dict[str, tuple[dict[str, Any], str]] = {
    "steps": (schedule(steps=HUGE), f"schedule: steps=1000000000: {FEW}"),
    "steps without end": (schedule(steps=BEYOND), "schedule.steps: .*: a whole number of at most"),
    "steps of many digits": (schedule(steps=DIGITS), "schedule.steps: a very large int: a whole"),
    "warmup": (schedule(warmup=HUGE), f"schedule: warmup=1000000000: {FEW}"),
    "one step": ({"schedule": {"warmup": HUGE}}, f"schedule: warmup=1000000000: {FEW}"),
    "cooldown": (
        {"schedule": {"name": "movement", "steps": 3, "cooldown": HUGE}},
        "cooldown=1000000000: 0 to 2 is needed",
    ),
    "trials": (allocation("simulated-annealing", trials=HUGE), r"trials=1000000000 \(2 to 100,000"),
    "trials of optuna": (allocation("optuna", trials=HUGE), r"trials=1000000000 \(1 to 100,000\)"),
    "options": (allocation("optimal", options=HUGE), r"options=1000000000 \(2 to 1,000\)"),
    "seconds": (allocation("optimal", seconds=float("inf")), "seconds: inf: a finite number"),
    "gap": (allocation("optimal", gap=float("nan")), "gap: nan: a finite number is needed"),
    "a small step": (allocation("sensitivity", step=1e-12), "0.001 ≤ step ≤ most ≤ 1 is needed"),
    "seed": (allocation("simulated-annealing", seed=BEYOND), "seed: .*: a whole number of at most"),
    "seed of a metric": ({"metric": {"name": "random", "seed": -BEYOND}}, "seed: -1.*at most"),
    "units kept": (allocation("uniform", min_keep=BEYOND), "min_keep: .* less than or equal to 2"),
    "rounding": (allocation("uniform", round_to=BEYOND), "round_to: .*a whole number of 1 or more"),
    "rounding of a target": (target(round_to=BEYOND), "round_to: .*a whole number of 1 or more"),
    "units": (target(min_units=BEYOND), "min_units: .*less than or equal to 2147483647"),
    "block": (target(block=BEYOND), "block: .*a whole number of 1 or more"),
    "pattern": (target(block={"n": 2, "m": BEYOND}), "a pattern is"),
    "goal": (goal("macs", BEYOND), "objective.macs: 1.*: a whole number of at most"),
    "share": (goal("macs", float("inf")), "objective.macs: inf: a finite number is needed"),
    "threads": (goal("latency", 0.5, threads=HUGE), "objective.threads: .* than or equal to 1024"),
    "batch": (goal("latency", 0.5, batch=HUGE), "objective.batch: .* less than or equal to 65536"),
    "a long text": ({"metric": "x" * 5000}, "unknown metric"),
    "a long value": (goal("macs", "x" * 5000), "objective.macs: 'xxx"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_what_nobody_can_mean_is_refused(name: str) -> None:
    spec, said = ABSURD[name]
    with pytest.raises(SpecError, match=said) as raised:
        Spec.of({"objective": {"macs": 0.5}, **spec})
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("verify", {"rtol": "nan"}, r"passes.verify.rtol: nan: a number of 0 or more is needed"),
        ("verify", {"rtol": "inf"}, r"passes.verify.rtol: inf: a number of 0 or more is needed"),
        ("verify", {"rtol": -1}, r"passes.verify.rtol: -1.0: a number of 0 or more is needed"),
        ("allocate", {"round_to": "x" * 5000}, "passes.allocate.round_to.*: 'xxx"),
    ],
)
def test_options_of_passes_are_bounded(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as raised:
        make(name, given)
    assert len(str(raised.value)) < 500


# ---- files ---------------------------------------------------------------------------------------

LAUGHS = 'a: &a ["x","x","x","x","x","x","x","x","x"]\n' + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(9)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} {{<<: [{','.join(['*' + chr(97 + k)] * 9)}]}}\n"
    for k in range(9)
)
FILES: dict[str, tuple[str, str, str]] = {
    "aliases of aliases": ("x.yaml", LAUGHS + "target: *j\n", "its aliases stand for more than"),
    "tables of tables": ("x.yaml", MERGES + "target: *j\n", "its aliases stand for more than"),
    "an alias in itself": ("x.yaml", "target: &a [*a]\n", "an alias stands for what it is a part"),
    "deep": ("x.yaml", "target: " + "[" * 5000 + "]" * 5000, "not YAML"),
    "deep JSON": ("x.json", "[" * 100_000, "not JSON"),
    "deep TOML": ("x.toml", "target = " + "[" * 5000 + "]" * 5000, "not TOML"),
    "many digits": ("x.yaml", f"objective: {{macs: 1{'0' * 5000}}}", "not YAML"),
    "many digits in JSON": ("x.json", f'{{"objective": {{"macs": 1{"0" * 5000}}}}}', "not JSON"),
    "many digits in TOML": ("x.toml", f"objective.macs = 1{'0' * 5000}", "not TOML"),
    "a table of one key": (
        "x.json",
        "{" + ",".join(f'"{k}": 1' for k in range(50_000)) + ', "1": 1}',
        "1 is given twice",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_grow_are_refused(name: str, tmp_path: Path) -> None:
    file, text, said = FILES[name]
    (tmp_path / file).write_text(text)
    with pytest.raises(SpecError, match=said):
        Spec.of(tmp_path / file)


def test_a_file_without_end(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("#" * 1_000_001)
    with pytest.raises(FileError, match=r"x\.toml: holds more than 1,000,000 bytes"):
        Spec.of(tmp_path / "x.toml")


def test_aliases_that_are_few_are_followed(tmp_path: Path) -> None:
    text = "x: &goal {macs: 0.5}\n"
    (tmp_path / "x.yaml").write_text(text.replace("x", "objective"))
    assert Spec.of(tmp_path / "x.yaml").objective.chosen == ("macs", 0.5)
    (tmp_path / "y.yaml").write_text(
        "objective: &a {macs: 0.5}\ntarget: [{kind: hidden, include: &b [a]}, "
        "{kind: head, include: *b}]\n"
    )
    assert [one.include for one in Spec.of(tmp_path / "y.yaml").target] == [("a",), ("a",)]
