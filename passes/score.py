"""score: compute the importance of each unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx

from fxprune import distributed
from fxprune.errors import InputError, SpecError
from fxprune.graphs import attribute, tensors_of
from fxprune.metrics import (
    METRICS,
    Calibration,
    Evidence,
    Function,
    Metric,
    Normalization,
    Scores,
    label,
    make,
)
from fxprune.metrics.normalizing import normalized
from fxprune.metrics.reads import AsRead, as_read
from fxprune.metrics.registry import Curved, Lessons, Scored
from fxprune.metrics.stored import Stored
from fxprune.pipeline import Facts, register
from fxprune.program import Program
from fxprune.targets import BlockTarget, Discovery, Selection, Target


@register("score")
@dataclass(frozen=True)
class Score:
    """Score every unit of the selected targets by a metric; its options come from a spec.

    `normalize` makes the scores of targets comparable: divided by their mean, largest, sum or
    root of the sum of squares ("l2"), or shifted and scaled to mean 0 and deviation 1 ("standard").
    """

    metric: str | Callable[..., Any] = "l2"
    options: Mapping[str, Any] = field(default_factory=dict)
    normalize: Normalization = "none"

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Discovery, Selection)
    ensures: ClassVar[Facts] = (Scored,)

    def __call__(self, program: Program) -> Program:
        """Return the program with one array of scores a target."""
        bare = any(tensor.is_meta for tensor in tensors_of(program.module).values())
        if bare and Stored not in program:
            raise InputError(
                "score: a model on the meta device has no weights to score; it can be analyzed, or "
                "pruned together with the files of its weights (prune_checkpoint)"
            )
        selected = program[Selection]
        seen = _Seen(program, selected.targets)
        given = [one.metric or (self.metric, self._options) for one in selected.terms]
        # what is wrong with weights shows in the scores of a metric that adds up all of them;
        # stored weights are read once, to be scored
        if not bare and not all(_reads_all(name) for name, _ in given):
            _check_weights(program.module, selected.targets, partial(attribute, program.module))
        scores, losses = dict[int, Scores](), dict[int, Scores]()
        for number, (name, options) in enumerate(given):
            if number in scores:
                continue
            alike = [k for k, other in enumerate(given) if other == (name, options)]
            targets = [selected.targets[k] for k in alike]
            found, lost = self._scored(program, seen, name, options, targets)
            scores |= zip(alike, found, strict=True)
            losses |= zip(alike, lost, strict=bool(lost))
        # changes of the loss add up over all targets, if they were all measured in the same way
        one_way = len({repr(one) for one in given}) == 1 and self.normalize == "none"
        first = given[0][0] if given else self.metric
        kind = METRICS.get(first) if isinstance(first, str) else first
        additive = one_way and bool(getattr(kind, "additive", False))
        every = range(len(given))
        known = tuple(losses[k] for k in every) if additive and len(losses) == len(given) else ()
        return program.with_(Scored(tuple(scores[k] for k in every), additive, known))

    @property
    def _options(self) -> Mapping[str, Any]:
        return {**self.options, "normalize": self.normalize}

    def _scored(
        self,
        program: Program,
        seen: _Seen,
        metric_of: str | Function,
        options: Mapping[str, Any],
        targets: list[Target],
    ) -> tuple[list[Scores], list[Scores]]:
        """Return the scores of some targets, and what is lost in their order if that is known."""
        options = dict(options)
        normalize = options.pop("normalize", "none")
        metric, data = make(metric_of, options), program.get(Calibration) or Calibration()
        name = label(metric_of)
        data.require(name, metric.needs)
        read, stored = seen.of(metric), program.get(Stored)
        evidence = Evidence(
            read.module,
            read.coupling,
            targets,
            program.signature,
            data,
            (program.get(Lessons) or Lessons()).tensors,
            stored and stored.reading(program.module, read.names),
        )
        # weights and sums may differ in a last bit: what the first process sees is what all do
        _check_grain(name, metric, targets)
        curves = metric.curves(evidence) if isinstance(metric, Curved) else []
        given = [one.scores for one in curves] if curves else metric.score(evidence)
        scores = [distributed.agreed(score) for score in given]
        losses = [distributed.agreed(one.losses) for one in curves]
        for target, score in zip(targets, scores, strict=True):
            _check(program.module, target, score, name, stored)
        return [normalized(score, normalize) for score in scores], losses


class _Seen:
    """Hand out the weights as operators read them, evaluated once; what is learned has names."""

    def __init__(self, program: Program, targets: Sequence[Target]) -> None:
        self._program, self._targets = program, targets
        self._known: dict[bool, AsRead] = {}

    def of(self, metric: Metric) -> AsRead:
        """Return the graph that a metric looks at."""
        named = metric.needs == "training"
        if named not in self._known:
            program, coupling = self._program, self._program[Discovery].coupling
            self._known[named] = as_read(program.module, coupling, self._targets, known=named)
        return self._known[named]


def _reads_all(metric: str | Function) -> bool:
    """Tell a metric whose scores are not finite where a weight of a target is not."""
    return isinstance(metric, str) and getattr(METRICS.get(metric), "reads_all", False) is True


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


def _check(
    module: fx.GraphModule, target: Target, score: Scores, name: str, stored: Stored | None
) -> None:
    if not np.isfinite(score).all():
        read = partial(attribute, module) if stored is None else stored.read
        _check_weights(module, [target], read)
        raise InputError(
            f"score: {name} of {target.name} is beyond any number: its weights, or what comes of "
            "them, are too large; scale them down, or exclude the target"
        )


def _check_weights(
    module: fx.GraphModule, targets: Sequence[Target], read: Callable[[str], torch.Tensor]
) -> None:
    """Raise InputError where a weight of a target is no finite number; `read` gives it by name."""
    checked: set[str] = set()
    for target in targets:
        names = {name for name, _ in target.footprint}
        if isinstance(target, BlockTarget) and not target.site:
            names.add(target.tensor)
        for name in sorted(names - checked):
            if not isinstance(attribute(module, name), torch.nn.Parameter):
                continue
            tensor = read(name).detach()
            if not _finite(tensor):
                raise InputError(_strange(target, name, tensor))
        checked |= names


def _finite(tensor: torch.Tensor) -> bool:
    """Tell a tensor of finite numbers: their sum, five times faster, can only say yes for sure."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _strange(target: Target, name: str, tensor: torch.Tensor) -> str:
    """Say which weight is no finite number, and how many there are."""
    wrong = (~tensor.isfinite()).nonzero()
    place, value = wrong[0].tolist(), tensor[tuple(wrong[0])].item()
    kind = "a number" if value != value else "finite"
    return (
        f"score: the weights of {target.name} hold values that are not {kind}: {name}{place} is "
        f"{value} ({len(wrong)} in all); repair them, or exclude the target"
    )
