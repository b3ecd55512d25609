"""A selection of targets: what may lose units, and on which terms of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from fxprune import metrics
from fxprune.metrics import Metric, Normalization
from fxprune.registry import WIDEST
from fxprune.targets import block_of

Patterns = tuple[str, ...]
BOUNDS = ("min_keep", "min_ratio", "max_ratio", "round_to")  # what fixes a width leaves no room for


class Strict(BaseModel):
    """Refuse what is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Named(Strict, extra="allow"):
    """Name a strategy; what else stands in its table are its options, which it checks itself."""

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Return the options by name."""
        return dict(self.model_extra or {})


class MetricSpec(Named):
    """Name the metric, and say how the scores of targets are made comparable."""

    name: Annotated[str | Callable[..., Any], WithJsonSchema({"type": "string"})] = "l2"  # type: ignore[assignment]
    normalize: Normalization = "none"

    def made(self, where: str = "metric") -> Metric:
        """Return the metric; raises SpecError where its name or an option is wrong."""
        return metrics.make(self.name, self.options, where, ("normalize",))


class Bounded(Strict):
    """Check bounds on what may be removed of one target."""

    @field_validator("round_to", mode="before", check_fields=False)
    @classmethod
    def _step(cls, value: Any) -> Any:
        if value is None or value == "auto" or (type(value) is int and 1 <= value <= WIDEST):
            return value
        raise ValueError('a whole number of 1 or more, or "auto", is needed')

    @model_validator(mode="after")
    def _in_order(self) -> Bounded:
        low, high = getattr(self, "min_ratio", None), getattr(self, "max_ratio", None)
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_ratio={low:g} is above max_ratio={high:g}")
        return self


class TargetSpec(Bounded):
    """Select targets by kind, module names, module types and size.

    With `exact` only units whose removal equals zeroing their weights are taken. A selection may
    have a metric and bounds of its own. `ratio` removes just that share of each of its targets, and
    `width` keeps just so many units of each, whatever the objective asks of the others.
    """

    kind: str | tuple[str, ...] = "all"
    include: Patterns = ()
    exclude: Patterns = ()
    type: Patterns = ()
    min_units: int = Field(default=2, ge=2, le=WIDEST, strict=True)
    max_units: int | None = Field(default=None, ge=2, le=WIDEST, strict=True)
    exact: bool = Field(default=False, strict=True)
    tensor: Literal["weight", "bias", "input", "output"] = "weight"
    block: Any = None
    axes: tuple[int, ...] | None = None
    metric: MetricSpec | None = None
    ratio: float | None = Field(default=None, ge=0.0, lt=1.0, strict=True)
    width: int | None = Field(default=None, ge=1, le=WIDEST, strict=True)
    min_keep: int | None = Field(default=None, ge=1, le=WIDEST, strict=True)
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
        return {"name": value} if isinstance(value, str) or callable(value) else value

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

    @model_validator(mode="after")
    def _fixed_once(self) -> TargetSpec:
        given = [name for name in ("ratio", "width") if getattr(self, name) is not None]
        bounds = [name for name in BOUNDS if getattr(self, name) is not None]
        if len(given) == 2:
            raise ValueError("ratio and width both say how much is kept: give one of the two")
        if given and bounds:
            raise ValueError(f"{given[0]} says how much is kept: leave out {bounds[0]}")
        if "width" in given and self.kind == "block":
            raise ValueError("width counts units, and blocks have none: give ratio")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return what was said, as plain data."""
        kind = self.kind if isinstance(self.kind, str) else list(self.kind)
        said = self.model_dump(mode="json", exclude_defaults=True, fallback=metrics.label)
        return said | {"kind": kind}
