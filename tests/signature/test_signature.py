"""Which sizes a signature takes, which it refuses and how, and that it survives as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from fxprune.errors import InputError
from fxprune.signature import Condition, FixedAxis, Signature, read, written
from tests.support.noise import noise

SIGNATURE = Signature(
    (noise(2, 3, 8), noise(2, 5)),
    {},
    axes=(("x_0", None, "x_2"), ("x_0", "y_1")),
    conditions=(Condition("x_2 % 4 == 0", "net.py:7"), Condition("y_1 < 9")),
    fixed=(FixedAxis(0, 1, "conv1d asks whether size_1 == 3", "net.py:6"),),
    labels=("x", "y"),
)
TAKEN = [(2, 3, 8), (2, 5)], [(7, 3, 12), (7, 8)], [(1, 3, 4), (1, 1)]
REFUSED: dict[str, tuple[Any, list[str]]] = {
    "a fixed axis": ([(2, 4, 8), (2, 5)], ["axis 1 of x is 4", "captured with 3", "net.py:6"]),
    "axes that go together": ([(2, 3, 8), (3, 5)], ["axis 0 of y is 3", "axis 0 of x, 2"]),
    "a condition": ([(2, 3, 6), (2, 5)], ["axis 2 of x is 6", "x_2 % 4 == 0", "net.py:7"]),
    "another condition": ([(2, 3, 8), (2, 9)], ["axis 1 of y is 9", "y_1 < 9"]),
    "another rank": ([(2, 3, 8, 1), (2, 5)], ["x has 4 axes", "captured with 3"]),
}


@pytest.mark.parametrize("shapes", TAKEN)
def test_other_sizes_are_taken(shapes: Any) -> None:
    SIGNATURE.check([noise(*shape) for shape in shapes])


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_not_captured_is_refused_by_name(name: str) -> None:
    shapes, said = REFUSED[name]
    with pytest.raises(InputError) as refused:
        SIGNATURE.check([noise(*shape) for shape in shapes])
    assert all(words in str(refused.value) for words in said), refused.value


def test_a_second_size_of_every_axis_meets_the_conditions() -> None:
    second = SIGNATURE.second_sizes()
    assert second.keys() == {"x_0", "x_2", "y_1"}
    assert all(second[name] != size for name, size in SIGNATURE.sizes.items())
    args, kwargs = SIGNATURE.sized(second)
    SIGNATURE.check([*args])
    assert not kwargs
    assert [tuple(one.shape) for one in args] == [
        (second["x_0"], 3, second["x_2"]),
        (second["x_0"], second["y_1"]),
    ]


def test_a_signature_survives_as_json() -> None:
    bare = Signature(SIGNATURE.args, {})
    assert read(bare, json.loads(json.dumps(written(SIGNATURE)))) == SIGNATURE


@pytest.mark.parametrize(
    "damage",
    [
        {"axes": [["x_0"]]},
        {"conditions": [{"text": "__import__('os')", "line": ""}]},
        {"conditions": [{"text": "other_0 == 3", "line": ""}]},
        {"conditions": [{"text": "x_2 ** 99 == 3", "line": ""}]},
        {"fixed": [{"leaf": 9, "axis": 0, "why": "", "line": ""}]},
        {"labels": ["x"]},
    ],
    ids=str,
)
def test_what_is_damaged_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read(Signature(SIGNATURE.args, {}), {**written(SIGNATURE), **damage})


def test_within_what_was_known_before() -> None:
    again = Signature(SIGNATURE.args, {}, (("a_0", None, "a_2"), ("a_0", "b_1")), labels=("a", "b"))
    merged = again.within(SIGNATURE)
    assert [one.text for one in merged.conditions] == ["a_2 % 4 == 0", "b_1 < 9"]
    assert merged.fixed == SIGNATURE.fixed


def test_only_leading_axes() -> None:
    fewer = SIGNATURE.batched()
    assert fewer.axes == (("x_0", None, None), ("x_0", None))
    assert not fewer.conditions
    assert torch.equal(fewer.resized(4)[0][0][:2], SIGNATURE.args[0])
