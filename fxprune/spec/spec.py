"""What a user asks for: one validated specification, from Python, TOML, YAML, JSON or a preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from fxprune import allocators, objectives, schedules
from fxprune.allocators import Allocator
from fxprune.errors import SpecError, SpecErrors, unknown
from fxprune.metrics import label
from fxprune.objectives import OBJECTIVES, Objective
from fxprune.registry import WIDEST, checked, made
from fxprune.schedules import Schedule
from fxprune.spec.errors import every_one
from fxprune.spec.files import read, with_preset
from fxprune.spec.schema import schema
from fxprune.spec.selection import Bounded, MetricSpec, Named, Strict, TargetSpec
from fxprune.spec.training import Training
from fxprune.surgery.repair import REPAIRS, Method
from fxprune.targets import SELECTABLE


class AllocationSpec(Bounded, Named):
    """Name the allocation and bound what it may remove from one target.

    Where none is named it is `optimal`, but `uniform` for a ratio of units and for blocks. With
    `same` = "structure" all targets of one structure that had as many units keep as many, such as
    the heads of all layers: then a configuration can say how many.
    """

    name: str = "uniform"
    min_keep: int = Field(default=1, ge=1, le=WIDEST, strict=True)
    min_ratio: float = Field(default=0.0, ge=0.0, le=1.0, strict=True)
    max_ratio: float = Field(default=1.0, ge=0.0, le=1.0, strict=True)
    round_to: int | Literal["auto"] = "auto"
    same: Literal["structure"] | None = None

    def made(self) -> Allocator:
        """Return the allocator; raises SpecError where its name or an option is wrong."""
        return allocators.make(self.name, self.options)


class ScheduleSpec(Named):
    """Name the schedule."""

    name: str = "one-shot"

    def made(self) -> Schedule:
        """Return the schedule; raises SpecError where its name or an option is wrong."""
        return schedules.make(self.name, self.options)


class RepairSpec(Named):
    """Name how what is left is repaired, without training."""

    name: str = "auto"

    def made(self, where: str = "repair") -> Method:
        """Return the method; raises SpecError where its name or an option is wrong."""
        found: Method = REPAIRS.make(self.name, self.options, where)
        return found


class ObjectiveSpec(Strict, extra="allow"):
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


class FineTuneSpec(Strict, extra="allow"):
    """Hold how the pruned model is trained after each step: options of `fxprune.FineTune`."""

    def made(self) -> Training:
        """Return the options; raises SpecError where one is wrong."""
        return made(Training, dict(self.model_extra or {}), "fine_tune")


class Spec(Strict):
    """Say what to prune, by which metric and allocation, in which steps, how much; and training.

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
    repair: RepairSpec = RepairSpec()
    fine_tune: FineTuneSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _fixed(cls, given: Any) -> Any:
        """Ask for no more than what selections say by themselves, where there is no objective."""
        if not isinstance(given, Mapping) or "objective" in given:
            return given
        target = given.get("target")
        listed = target if isinstance(target, (list, tuple)) else [target]
        tables = [one for one in listed if isinstance(one, Mapping)]
        if any({"ratio", "width"} & set(one) for one in tables):
            return {**given, "objective": {"ratio": 0.0}}
        return given

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

    @field_validator("metric", "allocation", "schedule", "repair", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) or callable(value) else value

    @classmethod
    def of(cls, given: Spec | Mapping[str, Any] | str | Path) -> Spec:
        """Return the specification in a mapping, in a file, or of a preset by its name.

        A mapping may name a `preset` and replace some of its axes. Raises SpecError with the path
        inside the spec, the value and what is legal, of all that is wrong.
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
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from None
        spec, wrong = cls._read(given)
        if wrong or spec is None:
            raise SpecErrors([f"{where}: {one}" for one in wrong])
        return spec

    @classmethod
    def _read(cls, given: Mapping[str, Any]) -> tuple[Spec | None, list[str]]:
        """Return the specification, and all that is wrong with it, on whichever axis."""
        try:
            spec = cls.model_validate(given)
        except ValidationError as error:
            wrong = every_one(error, cls, given)
            axes = [name for name in given if name in cls.model_fields and name != "objective"]
            for axis in axes:  # the axes that are right in themselves may still have a wrong name
                bare = {axis: given[axis], "objective": {"ratio": 0.0}}
                with suppress(ValidationError):
                    wrong += cls.model_validate(bare).wrong()
            return None, [*dict.fromkeys(wrong)]
        return spec, spec.wrong()

    def wrong(self) -> list[str]:
        """Return what is wrong with names, kinds and options, on every axis."""
        found: list[str] = []
        for number, target in enumerate(self.target):
            where = self.where(number)
            for kind in target.kinds:
                if kind not in SELECTABLE:
                    found.append(f"{where}.kind: {unknown('kind', kind, SELECTABLE)}")
            if target.metric is not None:
                found += _said(partial(target.metric.made, f"{where}.metric"))
        axes = (self.metric, self.allocation, self.schedule, self.objective, self.repair)
        for axis in (*axes, self.fine_tune):
            found += _said(axis.made) if axis is not None else []
        return found

    def where(self, number: int) -> str:
        """Return the path of a selection inside the spec."""
        return "target" if len(self.target) == 1 else f"target.{number}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `of` takes back."""
        data = self.model_dump(mode="json", exclude_none=True, fallback=label)
        targets = [target.to_dict() for target in self.target]
        return data | {"target": targets[0] if len(targets) == 1 else targets}

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of a specification: what an editor completes and checks."""
        return schema(cls)


def _said(make: Callable[[], Any]) -> list[str]:
    """Return what is wrong with a strategy: nothing, or one line."""
    try:
        make()
    except SpecError as error:
        return [str(error)]
    return []
