"""What `fxprune passes` says of options: the defaults are those that a pass really has."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest

from fxprune import pipeline
from fxprune.loop.named_passes import described_passes, every_pass
from fxprune.pipeline import make

PASSES = dict(every_pass())


@pytest.mark.parametrize("name", PASSES)
def test_defaults_are_those_of_the_pass(name: str) -> None:
    made = make(name, {})
    told = {option.name: option.default for option in pipeline.options(type(made))}
    assert told == {field.name: repr(getattr(made, field.name)) for field in fields(made)}


def test_every_line_can_be_read() -> None:
    described = described_passes()
    assert {name for name, _, _ in described} == {*PASSES}
    for _, options, line in described:
        assert repr(MISSING) not in options
        assert "object at" not in options
        assert line
    listed = {name: options for name, options, _ in described}
    assert "options: Mapping[str, Any] = {}" in listed["score"]
