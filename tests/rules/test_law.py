"""Every rule obeys its law on every sample, every rule has samples, and none pins unasked."""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Any

import pytest

from fxprune.rules import RULES
from fxprune.targets import rule_for
from tests.rules.drawing import draw
from tests.rules.law import Sample, build

HERE = Path(__file__).parent
GOLDEN = HERE / "patterns.txt"  # written anew with FXPRUNE_GOLDEN=1
NAMED_ONLY = {name for name in RULES if isinstance(name, str)}  # of libraries that may be absent


def _load() -> list[Sample]:
    names = sorted(info.name for info in pkgutil.iter_modules([str(HERE / "samples")]))
    modules: list[Any] = [importlib.import_module(f"tests.rules.samples.{name}") for name in names]
    return [sample for module in modules for sample in module.SAMPLES]


SAMPLES = _load()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.text)
def test_dropping_equals_zeroing(sample: Sample) -> None:
    assert rule_for(sample.operator) is not None
    case = build(sample)
    assert not case.coupling.failed
    for dropped in case.draws():
        case.check(dropped)


def test_every_rule_has_samples() -> None:
    sampled = {str(sample.operator) for sample in SAMPLES}
    assert not {str(operator) for operator in RULES} - sampled - NAMED_ONLY


def test_rules_free_what_they_did() -> None:
    drawn = {sample.text: draw(build(sample)) for sample in SAMPLES}
    if os.environ.get("FXPRUNE_GOLDEN"):
        GOLDEN.write_text("".join(f"{text}\n    {pattern}\n" for text, pattern in drawn.items()))
    lines = GOLDEN.read_text().splitlines()
    known = dict(zip(lines[::2], (line.strip() for line in lines[1::2]), strict=True))
    assert drawn == {text: known.get(text) for text in drawn}
