"""What a user asks for: one validated specification, from Python, TOML, YAML, JSON or a preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fxprune import allocators, metrics, objectives, schedules
from fxprune.allocators import Allocator
from fxprune.blocks import block_of
from fxprune.errors import SpecError
from fxprune.metrics import Metric
from fxprune.metrics.normalizing import Normalization
from fxprune.objectives import OBJECTIVES, Objective
from fxprune.pipeline import unknown
from fxprune.registry import checked
from fxprune.schedules import Schedule
from fxprune.schema import schema
from fxprune.spec_errors import explained
from fxprune.spec_files import read, with_preset
from fxprune.targets import SELECTABLE

Patterns = tuple[str, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Named(_Strict, extra="allow"):
    """Name a strategy; what else stands in its table are its options, which it checks itself."""

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Return the options by name."""
        return dict(self.model_extra or {})


class MetricSpec(_Named):
    """Name the metric, and say how the scores of targets are made comparable."""

    name: str = "l2"
    normalize: Normalization = "none"

    def made(self, where: str = "metric") -> Metric:
        """Return the metric; raises SpecError where its name or an option is wrong."""
        made: Metric = metrics.METRICS.make(self.name, self.options, where, ("normalize",))
        return made


class _Bounds(_Strict):
    @field_validator("round_to", mode="before", check_fields=False)
    @classmethod
    def _step(cls, value: Any) -> Any:
        if value is None or value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError('a whole number of 1 or more, or "auto", is needed')

    @model_validator(mode="after")
    def _in_order(self) -> _Bounds:
        low, high = getattr(self, "min_ratio", None), getattr(self, "max_ratio", None)
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_ratio={low:g} is above max_ratio={high:g}")
        return self


class TargetSpec(_Bounds):
    """Select targets by kind, module names, module types and size.

    With `exact` only units whose removal equals zeroing their weights are taken. A selection may
    have a metric and bounds of its own.
    """

    kind: str | tuple[str, ...] = "all"
    include: Patterns = ()
    exclude: Patterns = ()
    type: Patterns = ()
    min_units: int = Field(default=2, ge=2, strict=True)
    max_units: int | None = Field(default=None, ge=2, strict=True)
    exact: bool = Field(default=False, strict=True)
    tensor: Literal["weight", "bias", "input", "output"] = "weight"
    block: Any = None
    axes: tuple[int, ...] | None = None
    metric: MetricSpec | None = None
    min_keep: int | None = Field(default=None, ge=1, strict=True)
    min_ratio: float | None = Field(default=None, ge=0.0, le=1.0, strict=True)
    max_ratio: float | None = Field(default=None, ge=0.0, le=1.0, strict=True)
    round_to: int | Literal["auto"] | None = None

    @field_validator("include", "exclude", "type", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds that are selected."""
        return (self.kind,) if isinstance(self.kind, str) else self.kind

    @field_validator("metric", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("block")
    @classmethod
    def _block(cls, value: Any) -> Any:
        return None if value is None else block_of(value)

    @model_validator(mode="after")
    def _only_of_blocks(self) -> TargetSpec:
        given = [name for name in ("block", "axes") if getattr(self, name) is not None]
        if given and self.kind != "block":
            raise ValueError(f'{given[0]} is of blocks: set kind to "block"')
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return what was said, as plain data."""
        return self.model_dump(mode="json", exclude_defaults=True) | {"kind": _plain(self.kind)}


class AllocationSpec(_Bounds, _Named):
    """Name the allocation and bound what it may take from one target.

    Where none is named it is `optimal`, but `uniform` for a ratio of units and for blocks.
    """

    name: str = "uniform"
    min_keep: int = Field(default=1, ge=1, strict=True)
    min_ratio: float = Field(default=0.0, ge=0.0, le=1.0, strict=True)
    max_ratio: float = Field(default=1.0, ge=0.0, le=1.0, strict=True)
    round_to: int | Literal["auto"] = "auto"

    def made(self) -> Allocator:
        """Return the allocator; raises SpecError where its name or an option is wrong."""
        return allocators.make(self.name, self.options)


class ScheduleSpec(_Named):
    """Name the schedule."""

    name: str = "one-shot"

    def made(self) -> Schedule:
        """Return the schedule; raises SpecError where its name or an option is wrong."""
        return schedules.make(self.name, self.options)


class ObjectiveSpec(_Strict, extra="allow"):
    """Say how much: the name of one objective with its goal; what else stands here are options."""

    @property
    def chosen(self) -> tuple[str, Any]:
        """Return the name of the objective and its goal.

        Raises SpecError where there is not exactly one.
        """
        given = dict(self.model_extra or {})
        names = [name for name in given if name in OBJECTIVES]
        if len(names) == 1:
            return names[0], given[names[0]]
        if not names and given:  # the first is what was meant, not an option
            raise SpecError(f"objective: {unknown('key', next(iter(given)), OBJECTIVES)}")
        known = ", ".join(OBJECTIVES)
        raise SpecError(f"objective: give exactly one of {known} (found {names or 'none'})")

    @property
    def options(self) -> dict[str, Any]:
        """Return what stands beside the goal."""
        name, _ = self.chosen
        return {key: value for key, value in (self.model_extra or {}).items() if key != name}

    def made(self) -> Objective:
        """Return the objective; raises SpecError where its goal or an option is wrong."""
        name, goal = self.chosen
        checked(f"objective.{name}", objectives.goal_type(name), goal)
        known = [field.name for field in fields(OBJECTIVES[name]) if field.name != "goal"]
        for key in self.options:
            if key not in known:
                raise SpecError(f"objective: {unknown(f'option of {name}', key, known)}")
        return objectives.make(name, {"goal": goal, **self.options})


class Spec(_Strict):
    """Say what to prune, by which metric and allocation, in which steps, and how much.

    >>> Spec.of({"objective": {"macs": 0.5}}).objective.chosen
    ('macs', 0.5)
    >>> Spec.of("agp").schedule.name
    'agp'
    """

    target: tuple[TargetSpec, ...] = (TargetSpec(),)
    metric: MetricSpec = MetricSpec()
    allocation: AllocationSpec = AllocationSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    objective: ObjectiveSpec

    @model_validator(mode="after")
    def _allocated(self) -> Spec:
        """Choose the allocation that none was named of: `optimal` where there is a budget."""
        if "name" not in self.allocation.model_fields_set:
            budget = not {"ratio"} & set(self.objective.model_extra or ())
            blocks = any("block" in one.kinds for one in self.target)
            name = "optimal" if budget and not blocks else "uniform"
            chosen = self.allocation.model_copy(update={"name": name})
            object.__setattr__(self, "allocation", chosen)
        return self

    @field_validator("target", mode="before")
    @classmethod
    def _selections(cls, value: Any) -> Any:
        if isinstance(value, str):
            return ({"kind": value},)
        if value in ([], ()):
            raise ValueError("at least one selection is needed")
        if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
            return ({"kind": tuple(value)},)
        return (value,) if isinstance(value, (Mapping, TargetSpec)) else value

    @field_validator("metric", "allocation", "schedule", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def of(cls, given: Spec | Mapping[str, Any] | str | Path) -> Spec:
        """Return the specification in a mapping, in a file, or of a preset by its name.

        A mapping may name a `preset` and replace some of its axes. Raises SpecError with the path
        inside the spec, the value and what is legal.
        """
        if isinstance(given, Spec):
            return given
        where = "spec"
        if isinstance(given, (str, Path)):
            where, given = str(given), read(given)
        if not isinstance(given, Mapping):
            raise SpecError(f"{where}: a table is needed, not {type(given).__name__}")
        try:
            given = with_preset(given)
            spec = cls.model_validate(given)
            spec.check()
        except ValidationError as error:
            raise SpecError(f"{where}: {explained(error, cls, given)}") from None
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from None
        return spec

    def check(self) -> None:
        """Raise SpecError where a name, a kind or an option is wrong on any axis."""
        for number, target in enumerate(self.target):
            where = self.where(number)
            for kind in target.kinds:
                if kind not in SELECTABLE:
                    known = SELECTABLE
                    raise SpecError(f"{where}.kind: {unknown('kind', kind, known)}")
            if target.metric is not None:
                target.metric.made(f"{where}.metric")
        self.metric.made()
        self.allocation.made()
        self.schedule.made()
        self.objective.made()

    def where(self, number: int) -> str:
        """Return the path of a selection inside the spec."""
        return "target" if len(self.target) == 1 else f"target.{number}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `of` takes back."""
        data = self.model_dump(mode="json", exclude_none=True)
        targets = [target.to_dict() for target in self.target]
        return data | {"target": targets[0] if len(targets) == 1 else targets}

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of a specification: what an editor completes and checks."""
        return schema(cls)


def _plain(value: str | tuple[str, ...]) -> Any:
    return value if isinstance(value, str) else list(value)
