"""Keep the table of metrics by name, and what a metric is given and may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.errors import CallbackError, FxpruneError, SpecError, root_cause, shown
from fxprune.guards import Ids
from fxprune.metrics.calibration import Calibration
from fxprune.metrics.stored import Stored
from fxprune.registry import Registry
from fxprune.rules import Coupling
from fxprune.signature import Signature
from fxprune.targets import Grid, Target

Scores = NDArray[np.float64]
Needs: TypeAlias = Literal["nothing", "batches", "batches and loss", "training"]
TIES = 1e-12  # relative: by how much the scores of a curve differ at least
Reduction: TypeAlias = Literal["sum", "mean", "first", "max"]


@dataclass(frozen=True)
class Evidence:
    """Hold what a metric looks at: the captured graph, its coupling and the targets to score.

    `calibration` holds the data that the metric `needs`; `signature` says how the graph is called;
    `learned` is what a `Learner` wrote down during fine-tuning, and `stored` has the weights of a
    model on the meta device.
    """

    module: fx.GraphModule
    coupling: Coupling
    targets: Sequence[Target]
    signature: Signature
    calibration: Calibration
    learned: Mapping[str, torch.Tensor] = field(default_factory=dict)
    stored: Stored | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """Hold the order in which the units of a target go, and what is lost with the first 1, 2, ….

    `order` are places in the target, `[units]`, and `losses` never fall.
    """

    order: Ids
    losses: Scores

    @property
    def scores(self) -> Scores:
        """Return a score of each unit, `[units]`: the step of its loss, ascending in the order."""
        steps = np.maximum.accumulate(np.diff(self.losses, prepend=0.0))
        apart = TIES * (float(steps[-1]) if len(steps) else 0.0) or TIES
        scores = np.empty_like(steps)
        scores[self.order] = steps + apart * np.arange(len(steps))
        return scores


class Metric(Protocol):
    """Score the units of targets: higher is more important.

    One with `additive = True` scores by changes of the loss, which add up over targets.
    """

    needs: ClassVar[Needs]

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return one array of shape `[units]` for each target."""


Learned = MutableMapping[str, torch.Tensor]


@dataclass(frozen=True)
class Lessons:
    """Hold what metrics have learned in training: tensors by metric and parameter."""

    tensors: Learned = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Hold an array of scores `[units]` for each selected target.

    `additive` says that they are changes of one loss, which add up over all targets. `losses` are
    what is lost of a target with its first 1, 2, … units in the order of their scores, `[units]`,
    where a metric knows that.
    """

    scores: tuple[Scores, ...]
    additive: bool = False
    losses: tuple[Scores, ...] = ()


@dataclass(frozen=True, eq=False)
class Seen:
    """Hold what one backward pass brings to one parameter, before it is accumulated.

    `grid` says into which blocks the parameter is cut, where it is its blocks that may be masked.
    """

    name: str
    parameter: torch.nn.Parameter
    gradient: torch.Tensor
    grid: Grid | None = None


@runtime_checkable
class Curved(Protocol):
    """A metric that knows what is lost with several units of a target together."""

    def curves(self, evidence: Evidence) -> list[Curve]:
        """Return a curve for each target."""


@runtime_checkable
class Learner(Protocol):
    """A metric that learns while the module is fine-tuned (it `needs` "training").

    What it learns are tensors by `quantity:parameter`, of the parameter's shape: they are cut with
    the parameter when units are removed, and saved in checkpoints. `settles` says that it is told
    between fine-tunings what would be kept.
    """

    settles: ClassVar[bool]

    def watched(self, module: fx.GraphModule) -> list[str]:
        """Return the names of the parameters to observe, of a captured graph."""

    def observe(self, seen: Seen, learned: Learned) -> torch.Tensor | None:
        """Look at what a backward pass brings; may return a gradient to take its place."""

    def settle(
        self, name: str, parameter: torch.Tensor, keep: torch.Tensor, learned: Learned
    ) -> None:
        """Take note, between fine-tunings, of what would be kept: `keep` is bool, of its shape."""


METRICS = Registry("metric", "fxprune.metrics", ("score", "needs"))
metric = METRICS.register


Function: TypeAlias = Callable[[Evidence], Any]  # returns one array `[units]` a target


@dataclass(frozen=True)
class OfFunction:
    """Score by a function of the caller's, which stands where the name of a metric may stand."""

    function: Function

    @property
    def needs(self) -> Needs:
        """Return what the function says in its attribute `needs`, else "nothing"."""
        found: Needs = getattr(self.function, "needs", "nothing")
        return found

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return what the function returns; raises CallbackError where that cannot be scores."""
        name = label(self.function)
        try:
            found = [np.asarray(one, dtype=np.float64) for one in self.function(evidence)]
        except FxpruneError:
            raise
        except Exception as error:  # it is the caller's own
            raise CallbackError(f"metric: {name} raised {root_cause(error, 200)}") from error
        shapes, wanted = [one.shape for one in found], [(len(one),) for one in evidence.targets]
        if shapes != wanted:
            raise CallbackError(
                f"metric: {name} must return an array [units] for each target, of the shapes "
                f"{shown(wanted)}, not {shown(shapes)}"
            )
        return found


def label(name: str | Function) -> str:
    """Return the name of a metric, of a function that is one its module and name.

    >>> label(label).rpartition(".")[2]
    'label'
    """
    if isinstance(name, str):
        return name
    home = getattr(name, "__qualname__", type(name).__qualname__)
    return f"{getattr(name, '__module__', type(name).__module__)}.{home}"


def make(
    name: str | Function,
    options: Mapping[str, Any],
    where: str = "metric",
    beside: Sequence[str] = (),
) -> Metric:
    """Return the metric `name` with the options of a specification; it may be a function.

    Raises SpecError with the path inside the spec, the value and what is legal.

    >>> make("random", {"seed": 3})
    Random(seed=3)
    """
    if not isinstance(name, str):
        if options:
            raise SpecError(f"{where}: {label(name)} is a function, which has no options")
        return cast(Metric, OfFunction(name))  # its needs are the function's
    made: Metric = METRICS.make(name, options, where, beside)
    return made
