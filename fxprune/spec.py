"""What a user asks for: one validated specification, from Python, TOML or JSON."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fxprune.errors import FileError, SpecError
from fxprune.pipeline import unknown

Patterns = tuple[str, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TargetSpec(_Strict):
    """Select targets by kind and by shell patterns over the modules that make their units.

    With `exact` only units whose removal equals zeroing their weights are taken.
    """

    kind: str | tuple[str, ...] = "all"
    include: Patterns = ()
    exclude: Patterns = ()
    exact: bool = False

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class MetricSpec(_Strict, extra="allow"):
    """Name the metric; what else stands in its table are its options, which it checks itself."""

    name: str = "l2"

    @property
    def options(self) -> dict[str, Any]:
        """Return the options by name."""
        return dict(self.model_extra or {})


class AllocationSpec(_Strict):
    """Name the allocation and bound what it may take from one target."""

    name: str = "uniform"
    min_keep: int = Field(default=1, ge=1, strict=True)
    max_ratio: float = Field(default=1.0, ge=0.0, le=1.0, strict=True)
    round_to: int | Literal["auto"] = "auto"

    @field_validator("round_to", mode="before")
    @classmethod
    def _step(cls, value: Any) -> Any:
        if value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError('a whole number of 1 or more, or "auto", is needed')


class ObjectiveSpec(_Strict, strict=True):
    """Say how much: the `ratio` of units to remove, or the share of `params` or `macs` to keep."""

    ratio: float | None = Field(default=None, ge=0.0, lt=1.0)
    params: float | None = Field(default=None, gt=0.0, le=1.0)
    macs: float | None = Field(default=None, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _one(self) -> ObjectiveSpec:
        given = [name for name in ("ratio", "params", "macs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of ratio, params, macs (found {given or 'none'})")
        return self

    @property
    def chosen(self) -> tuple[str, float]:
        """Return the name of the objective and its value."""
        return next((k, float(v)) for k, v in self.model_dump().items() if v is not None)


class Spec(_Strict):
    """Say what to prune, by which metric and allocation, and how much.

    >>> Spec.of({"objective": {"macs": 0.5}}).objective.chosen
    ('macs', 0.5)
    """

    target: TargetSpec = TargetSpec()
    metric: MetricSpec = MetricSpec()
    allocation: AllocationSpec = AllocationSpec()
    schedule: Literal["one-shot"] = "one-shot"
    objective: ObjectiveSpec

    @field_validator("target", mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, (str, list, tuple)) else value

    @field_validator("metric", "allocation", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def of(cls, given: Spec | Mapping[str, Any] | str | Path) -> Spec:
        """Return the specification in a mapping, or in the TOML or JSON file at a path.

        Raises SpecError with the path inside the spec, the value and what is legal.
        """
        if isinstance(given, Spec):
            return given
        where = "spec"
        if isinstance(given, (str, Path)):
            where, given = str(given), read(Path(given))
        if not isinstance(given, Mapping):
            raise SpecError(f"{where}: a table is needed, not {type(given).__name__}")
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            raise SpecError(f"{where}: {_explained(error, cls)}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `of` takes back."""
        return self.model_dump(mode="json", exclude_none=True)


def read(path: Path) -> Any:
    """Read a TOML or JSON file; raises FileError where it cannot be read or parsed."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path}: the spec cannot be read: {reason}") from None
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise SpecError(f"{path}: not {kind}: {error}") from None


def _explained(error: ValidationError, cls: type[BaseModel]) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        known = _fields(cls, path[:-1])
        inside = ".".join(path[:-1])
        return f"{inside + ': ' if inside else ''}{unknown('key', path[-1], known)}"
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f'{".".join(path)}: is needed, as in {{"objective": {{"macs": 0.5}}}}'
    if first["type"] == "model_type":
        text = "a table is needed" if path == ["objective"] else "a name or a table is needed"
    value = "" if isinstance(first["input"], (dict, BaseModel)) else f"{first['input']!r}: "
    return f"{'.'.join(path)}: {value}{text[:1].lower()}{text[1:]}"


def _fields(cls: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        found = cls.model_fields.get(part)
        if found is None or not isinstance(found.annotation, type):
            break
        if issubclass(found.annotation, BaseModel):
            cls = found.annotation
    return list(cls.model_fields)
