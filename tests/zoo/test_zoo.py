"""The law of the whole on torchvision: a fixed few and four more each day; all of it when slow."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torchvision")
import zoo
import zoo_models

FIXED = [  # name, compared in ONNX Runtime too
    ("resnet18", True),
    ("shufflenet_v2_x0_5", True),
    ("mobilenet_v3_small", False),
    ("swin_t", False),
]
HEAVY = (  # gigabytes or minutes each: only in the slow run
    *("*_h_14", "vit_l_*", "regnet_*_128gf", "regnet_*_32gf", "regnet_*_16gf", "convnext_large"),
    *("efficientnet_v2_l", "efficientnet_b7", "maxvit*", "swin*_b", "swin_v2*", "mvit*", "s3d"),
    *("swin3d_*", "raft_large", "resnext101_64x4d", "densenet161", "densenet201"),
)
A_DAY = 4
STRIDE = 37  # neighbours in the list are near relations


def todays(day: int, count: int = A_DAY) -> list[Any]:
    """Return the light models whose turn it is: every one has had its turn after 20 days."""
    light = [
        case
        for case in zoo_models.cases(("cls", "seg", "video"))
        if not any(Path(case.name).match(pattern) for pattern in HEAVY)
    ]
    return [light[(day * count + k) * STRIDE % len(light)] for k in range(count)]


def check(case: Any, onnx: bool, small: bool) -> None:
    row = zoo.measure(case, onnx=onnx, small=small)
    assert not row.refused
    assert not row.faults(onnx)


@pytest.mark.parametrize(("name", "onnx"), FIXED)
def test_a_fixed_few_hold(name: str, onnx: bool) -> None:
    check(zoo_models.Case(name, "cls"), onnx, small=True)


@pytest.mark.parametrize("case", todays(date.today().toordinal()), ids=lambda case: case.name)
def test_todays_models_hold(case: Any) -> None:
    check(case, onnx=False, small=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", zoo_models.cases(), ids=lambda case: f"{case.group}-{case.name}")
def test_the_whole_zoo_holds(case: Any) -> None:
    row = zoo.apart(case, onnx=True)
    if row.refused:
        pytest.skip(row.refused)
    assert not row.faults()


def test_every_model_gets_its_turn() -> None:
    seen = {case.name for day in range(40) for case in todays(day)}
    assert len(seen) > 50


def test_the_zoo_is_whole() -> None:
    sizes = {group: len(zoo_models.cases([group])) for group in zoo_models.GROUPS}
    assert sizes["cls"] >= 80
    assert min(sizes.values()) >= 2


def test_a_law_that_says_nothing_is_a_fault() -> None:
    row = zoo.Row("x", "cls", coverage=1.0, macs=2, macs_after=1, batch=True, masked=0.0, onnx=0.0)
    row.changed = 0.0
    assert row.faults() == ["pruning changed the output by 0.0e+00 only"]


def test_a_refusal_of_the_exporter_is_no_fault_of_ours() -> None:
    assert not zoo.Row("x", "det", refused="capture: torch.export cannot trace X").faults()
    assert zoo.Row("x", "det", failed="KeyError").faults() == ["KeyError"]


def test_a_law_that_fails_at_another_size_is_a_fault() -> None:
    row = zoo.Row("x", "cls", coverage=1.0, macs=2, macs_after=1, batch=True, masked=0.0, onnx=0.0)
    row.changed, row.second, row.masked_second = 1.0, "3×3×65×65", 0.5
    assert row.faults() == ["masked and shrunk differ by 5.0e-01 at 3×3×65×65"]
