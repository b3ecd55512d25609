"""Passes: they run in any legal order, and what is wrong with another is said in one line."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import pipeline
from fxprune.api import described_passes, parse_passes
from fxprune.capture import capture
from fxprune.errors import PassError, SpecError, VerifyError
from tests.support.noise import noise

X = noise(2, 8)
SPEC: dict[str, Any] = {"metric": "l1", "objective": {"ratio": 0.5}}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.back = nn.Linear(8, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.head(x + self.back(self.wide(x).relu()))


def test_run_is_prune_in_passes() -> None:
    model = Net().eval()
    slim = fxprune.run(
        model, "couple,score{metric=l1},allocate{ratio=0.5},shrink,restore,verify", (X,)
    )
    direct = fxprune.prune(model, SPEC, (X,))
    assert torch.equal(slim(X), direct(X))
    assert all(
        torch.equal(a, b)
        for name, axes in direct.plan.kept.items()
        for a, b in zip(axes, slim.plan.kept[name], strict=True)
    )


RUNS: dict[str, tuple[str, type[fxprune.FxpruneError], str]] = {
    "an unknown pass": ("couple,scor", SpecError, 'unknown pass "scor"; did you mean "score"?'),
    "an unknown option": ("score{metrc=l1}", SpecError, 'option "metrc"; did you mean "metric"?'),
    "a wrong value": ("allocate{ratio=half}", SpecError, "passes.allocate.ratio: 'half'"),
    "out of range": ("couple,score,allocate{ratio=1.5}", SpecError, "allocate.ratio: 1.5: inp"),
    "two objectives": ("couple,score,allocate{ratio=0.5,macs=0.5}", SpecError, "exactly one of"),
    "no list": ("couple{", SpecError, "is not a list of passes"),
    "nothing": ("", SpecError, "is not a list of passes"),
    "no value": ("score{metric}", SpecError, '"metric" is not option=value'),
    "out of order": ("score,couple", PassError, "needs a program that is coupled; put couple"),
    "not planned": ("couple,shrink", PassError, "needs a program that is planned; put allocate"),
    "twice": ("couple,score,allocate{ratio=0.5},shrink,shrink", PassError, "put couple before it"),
    "a masked one": ("couple,score,allocate{ratio=0.5},mask,shrink", PassError, "put couple"),
}


@pytest.mark.parametrize("name", RUNS)
def test_passes_that_cannot_run(name: str) -> None:
    passes, error, said = RUNS[name]
    with pytest.raises(error) as raised:
        fxprune.run(Net(), passes, (X,))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_surgery_is_found() -> None:
    """Verify compares numbers: a pass between shrink and verify that spoils them is refused."""
    program = capture(Net().eval(), X)
    steps = parse_passes("couple,score,select{include=wide},score,allocate{ratio=0.5},shrink")
    program = pipeline.run(program, steps)
    with torch.no_grad():
        program.module.get_parameter("back.weight").mul_(1.5)
    with pytest.raises(VerifyError, match="differs from the zeroed original"):
        pipeline.run(program, parse_passes("verify"))


def test_a_pattern_stands_alone_or_in_a_list() -> None:
    for include, count in [("wide", 1), ("wide|stem", 2), ("wide|", 1)]:
        text = f"couple,select{{include={include}}},score,allocate{{ratio=0.5}},shrink"
        targets = fxprune.run(Net(), text, (X,)).report.targets
        assert len(targets) == count


def test_what_was_not_removed_is_not_claimed() -> None:
    slim = fxprune.run(Net(), "couple,score,allocate{ratio=0.5}", (X,))
    assert slim.report.parameters_after == sum(p.numel() for p in slim.parameters())
    assert any("no shrink pass has run" in note for note in slim.report.notes)


def test_every_pass_is_described_with_its_options() -> None:
    described = {name: (options, line) for name, options, line in described_passes()}
    assert {"couple", "select", "score", "allocate", "mask", "shrink", "restore", "verify"} <= set(
        described
    )
    assert "metric: str | Callable[..., Any] = 'l2'" in described["score"][0]
    assert all(line.endswith(".") for _, line in described.values())


def test_an_option_is_said_as_its_author_wrote_it() -> None:
    """A plug-in need not postpone its annotations: its types are classes then."""
    made = make_dataclass("Made", [("least", int, 1), ("names", list[int])][::-1])
    assert [str(one) for one in pipeline.options(made)] == ["names: list[int]", "least: int = 1"]
