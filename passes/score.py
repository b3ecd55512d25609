"""score: tell how much each unit matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.errors import InputError, SpecError
from fxprune.metrics import METRICS
from fxprune.pipeline import register, unknown
from fxprune.program import Program, tensors_of


@register("score")
@dataclass(frozen=True)
class Score:
    """Score every unit of the selected targets by a metric."""

    metric: str = "l2"

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled",)
    ensures: ClassVar[tuple[str, ...]] = ("scored",)

    def __call__(self, program: Program) -> Program:
        """Return the program with one array of scores a target."""
        if self.metric not in METRICS:
            raise SpecError(f"metric: {unknown('metric', self.metric, METRICS)}")
        if any(tensor.is_meta for tensor in tensors_of(program.module).values()):
            raise InputError(
                "score: a model on the meta device has no weights to score; it can be analyzed only"
            )
        assert program.discovery is not None
        coupling = program.discovery.coupling
        scores = METRICS[self.metric]().score(program.module, coupling, program.selected)
        for target, score in zip(program.selected, scores, strict=True):
            if np.isnan(score).any():
                raise InputError(
                    f"score: the weights of {target.name} hold values that are not a number; "
                    "repair them, or exclude the target"
                )
        return program.with_(scores=tuple(scores))
