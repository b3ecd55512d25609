"""Every preset's file parses, and says its paper and what it needs."""

from __future__ import annotations

import tomllib

import pytest

from fxprune.spec import Spec, presets
from tests.spec.preset_nets import TABLE


def test_there_is_one_for_every_built_in_algorithm() -> None:
    assert presets.names() == sorted(TABLE)


@pytest.mark.parametrize("name", presets.names())
def test_a_file_says_what_it_does_its_paper_and_what_to_give(name: str) -> None:
    text = presets.text(name)
    spec = Spec.of(name)
    written = {*tomllib.loads(text)}
    assert written | {"fine_tune"} == {*Spec.model_fields}, "every axis is written out"
    assert presets.line(name) != text.partition("\n")[0]  # "# name: what it does"
    assert len(presets.line(name)) > 30
    assert text.count("\n# paper: ") == 1
    given = text.partition("\n# give: ")[2].partition("\n# differs:")[0].partition("\ntarget")[0]
    metric, allocator, schedule = spec.metric.made(), spec.allocation.made(), spec.schedule.made()
    training = spec.fine_tune.made() if spec.fine_tune is not None else None
    wanted = {
        "calibrate": "batches" in metric.needs
        or training is not None
        or spec.repair.made().needs == "batches",
        "loss": "loss" in metric.needs or (training is not None and training.distillation < 1),
        "evaluate": allocator.needs == "evaluate",
        "fine_tune": schedule.warmup > 0 or schedule.count > 1,
    }
    missing = [what for what, needed in wanted.items() if needed and what not in given]
    assert not missing
    unneeded = ("calibrate", "evaluate")
    assert not [what for what in unneeded if not wanted[what] and f"{what} (" in given]


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_goes_as_far_as_is_asked(name: str) -> None:
    spec = Spec.of({"preset": name, "objective": {"params": 0.3}})
    assert spec.objective.chosen == ("params", 0.3)
    others = {"transformer-head": ("ratio", 0.5), "level": ("params", 0.5)}
    others["soft-movement"] = ("ratio", 0.5)
    assert Spec.of(name).objective.chosen == others.get(name, ("macs", 0.5))
