"""A forecast: what prune would leave without training, of several specifications and goals."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import FxpruneError, SpecError
from tests.loop.looped import X, batches, loss, network

DATA = batches(3)
SWEEP = [0.8, 0.5]


def judged(module: nn.Module) -> float:
    with torch.no_grad():
        return -sum(float(loss(module, batch)) for batch in DATA)


def test_it_tells_what_prune_leaves() -> None:
    model, mine = network(), {"metric": "l1", "objective": {"macs": 0.9}, "repair": "none"}
    given: dict[str, Any] = {"calibrate": DATA, "evaluate": judged}
    told = fxprune.forecast(model, ["agp", mine], X, sweep=SWEEP, **given)
    assert [one.spec for one in told.outlooks] == ["agp", "agp", "2", "2"]
    assert [one.goal for one in told.outlooks] == [*SWEEP, *SWEEP]
    assert told.score == pytest.approx(judged(model))
    for one in told.outlooks:
        spec = {"metric": "l2" if one.spec == "agp" else "l1", "objective": {"macs": one.goal}}
        allocation = {"allocation": "uniform"} if one.spec == "agp" else {}
        slim = fxprune.prune(network(), spec | allocation, X, **given)
        assert one.score == pytest.approx(judged(slim))
        assert one.error == pytest.approx(slim.report.repair.after)
        assert one.macs == slim.report.macs_after
        assert one.achieved == pytest.approx(slim.report.steps[-1].achieved)
    data = json.loads(told.to_json())
    assert [one["score"] for one in data["outlooks"]] == [one.score for one in told.outlooks]
    assert str(told).count("agp") == 2
    assert "<table" in told._repr_html_()


def test_without_batches_norms_tell_and_there_is_no_error() -> None:
    told = fxprune.forecast(network(), "recover", X, sweep=[0.5], evaluate=judged)
    (one,) = told.outlooks
    bare = fxprune.prune(network(), {"preset": "l2", "repair": "means"}, X)
    assert (one.error, one.score) == (None, pytest.approx(judged(bare)))


@pytest.mark.parametrize(
    ("specs", "sweep", "said"),
    [
        ("movement", [0.5], "movement learns while the model is trained, and fine_tune is missing"),
        (["l2", "taylor-fo"], [0.5], "taylor-fo needs batches and loss"),
        ("l2", [], "a list of goals is needed"),
        ("l2", [2.0], "sweep.macs: 2.0"),
        ("l7", [0.5], 'unknown preset "l7"'),
    ],
)
def test_what_cannot_be_foretold_is_said(specs: Any, sweep: list[float], said: str) -> None:
    with pytest.raises(FxpruneError) as error:
        fxprune.forecast(network(), specs, X, sweep=sweep)
    assert said in str(error.value)
    assert isinstance(error.value, SpecError)
