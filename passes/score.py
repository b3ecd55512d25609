"""score: tell how much each unit matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fxprune import ranks
from fxprune.blocks import BlockTarget
from fxprune.calibration import Calibration
from fxprune.errors import InputError, SpecError
from fxprune.metrics import METRICS, Evidence, Metric, make
from fxprune.metrics.normalizing import Normalization, normalized
from fxprune.metrics.registry import Scores
from fxprune.pipeline import register
from fxprune.program import Program, tensors_of
from fxprune.targets import Target, Terms


@register("score")
@dataclass(frozen=True)
class Score:
    """Score every unit of the selected targets by a metric; its options come from a spec.

    `normalize` makes the scores of targets comparable: divided by their mean, largest, sum or
    root of the sum of squares ("l2"), or shifted and scaled to mean 0 and deviation 1 ("standard").
    """

    metric: str = "l2"
    options: Mapping[str, Any] = field(default_factory=dict)
    normalize: Normalization = "none"

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled",)
    ensures: ClassVar[tuple[str, ...]] = ("scored",)

    def __call__(self, program: Program) -> Program:
        """Return the program with one array of scores a target."""
        if any(tensor.is_meta for tensor in tensors_of(program.module).values()):
            raise InputError(
                "score: a model on the meta device has no weights to score; it can be analyzed only"
            )
        terms = program.terms or (Terms(),) * len(program.selected)
        given = [one.metric or (self.metric, self._options) for one in terms]
        scores: dict[int, Scores] = {}
        for number, (name, options) in enumerate(given):
            if number in scores:
                continue
            alike = [k for k, other in enumerate(given) if other == (name, options)]
            targets = [program.selected[k] for k in alike]
            scores |= zip(alike, self._scored(program, name, options, targets), strict=True)
        # changes of the loss add up over all targets, if they were all measured in the same way
        one_way = len({repr(one) for one in given}) == 1 and self.normalize == "none"
        additive = one_way and getattr(METRICS.get(given[0][0]), "additive", False)
        return program.with_(scores=tuple(scores[k] for k in range(len(given))), additive=additive)

    @property
    def _options(self) -> Mapping[str, Any]:
        return {**self.options, "normalize": self.normalize}

    def _scored(
        self, program: Program, name: str, options: Mapping[str, Any], targets: list[Target]
    ) -> list[Scores]:
        options = dict(options)
        normalize = options.pop("normalize", "none")
        metric, data = make(name, options), program.calibration or Calibration()
        data.require(name, metric.needs)
        assert program.discovery is not None
        evidence = Evidence(
            program.module,
            program.discovery.coupling,
            targets,
            program.signature,
            data,
            program.learned,
        )
        # weights and sums may differ in a last bit: what the first process sees is what all do
        _check_grain(name, metric, targets)
        scores = [ranks.agreed(score) for score in metric.score(evidence)]
        for target, score in zip(targets, scores, strict=True):
            _check(target, score, metric)
        return [normalized(score, normalize) for score in scores]


def _check_grain(name: str, metric: Metric, targets: list[Target]) -> None:
    """Raise SpecError where a metric has nothing to say of blocks, of weights or of activations."""
    grain = getattr(metric, "grain", ("units", "weights"))
    for target in targets:
        if not isinstance(target, BlockTarget):
            continue
        needed = "activations" if target.site else "weights"
        if needed not in grain:
            raise SpecError(
                f"metric: {name} says nothing of blocks of {needed}, such as {target.name}; choose "
                f"a metric of {needed}"
            )


def _check(target: Target, score: Scores, metric: Metric) -> None:
    if np.isnan(score).any():
        source = "weights" if metric.needs == "nothing" else "weights or activations"
        raise InputError(
            f"score: the {source} of {target.name} hold values that are not a number; "
            "repair them, or exclude the target"
        )
