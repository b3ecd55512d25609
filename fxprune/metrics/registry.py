"""Keep the table of metrics by name, and what a metric is given and may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import fx

from fxprune.calibration import Calibration
from fxprune.errors import SpecError
from fxprune.pipeline import unknown
from fxprune.program import Signature
from fxprune.rules.site import Coupling
from fxprune.targets import Target

Scores = NDArray[np.float64]
Needs: TypeAlias = Literal["nothing", "batches", "batches and loss", "training"]
Reduction: TypeAlias = Literal["sum", "mean", "first", "max"]


@dataclass(frozen=True)
class Evidence:
    """Hold what a metric looks at: the captured graph, its coupling and the targets to score.

    `calibration` holds the data that the metric `needs`; `signature` says how the graph is called.
    """

    module: fx.GraphModule
    coupling: Coupling
    targets: Sequence[Target]
    signature: Signature
    calibration: Calibration


class Metric(Protocol):
    """Score the units of targets: higher is more important."""

    needs: ClassVar[Needs]

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return one array of shape `[units]` for each target."""


METRICS: dict[str, type[Any]] = {}
M = TypeVar("M", bound=type[Any])


def metric(name: str) -> Callable[[M], M]:
    """Register a frozen dataclass as the metric `name`."""

    def decorate(cls: M) -> M:
        METRICS[name] = cls
        return cls

    return decorate


def make(name: str, options: Mapping[str, Any]) -> Metric:
    """Return the metric `name` with the options of a specification.

    Raises SpecError with the path inside the spec, the value and what is legal.

    >>> make("random", {"seed": 3})
    Random(seed=3)
    """
    cls = METRICS.get(name)
    if cls is None:
        raise SpecError(f"metric: {unknown('metric', name, METRICS)}")
    known = [field.name for field in fields(cls)]
    types = get_type_hints(cls)
    for key, value in options.items():
        if key not in known:
            raise SpecError(f"metric: {unknown(f'option of {name}', key, known)}")
        _check(f"metric.{key}", types[key], value)
    made: Metric = cls(**options)
    return made


def _check(place: str, wanted: Any, value: Any) -> None:
    choices = get_args(wanted)
    if isinstance(value, str) and choices and all(isinstance(one, str) for one in choices):
        if value not in choices:
            raise SpecError(f"{place}: {unknown('value', value, choices)}")
        return
    try:
        TypeAdapter(wanted).validate_python(value, strict=True)
    except ValidationError as error:
        text = error.errors()[0]["msg"]
        raise SpecError(f"{place}: {value!r}: {text[:1].lower()}{text[1:]}") from None
