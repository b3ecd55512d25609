"""score: tell how much each unit matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fxprune.calibration import Calibration
from fxprune.errors import InputError
from fxprune.metrics import Evidence, make
from fxprune.pipeline import register
from fxprune.program import Program, tensors_of


@register("score")
@dataclass(frozen=True)
class Score:
    """Score every unit of the selected targets by a metric; its options come from a spec."""

    metric: str = "l2"
    options: Mapping[str, Any] = field(default_factory=dict)

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled",)
    ensures: ClassVar[tuple[str, ...]] = ("scored",)

    def __call__(self, program: Program) -> Program:
        """Return the program with one array of scores a target."""
        metric, data = make(self.metric, self.options), program.calibration or Calibration()
        data.require(self.metric, metric.needs)
        if any(tensor.is_meta for tensor in tensors_of(program.module).values()):
            raise InputError(
                "score: a model on the meta device has no weights to score; it can be analyzed only"
            )
        assert program.discovery is not None
        coupling = program.discovery.coupling
        evidence = Evidence(program.module, coupling, program.selected, program.signature, data)
        scores = metric.score(evidence)
        for target, score in zip(program.selected, scores, strict=True):
            if np.isnan(score).any():
                source = "weights" if metric.needs == "nothing" else "weights or activations"
                raise InputError(
                    f"score: the {source} of {target.name} hold values that are not a number; "
                    "repair them, or exclude the target"
                )
        return program.with_(scores=tuple(scores))
