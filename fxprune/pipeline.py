"""Passes and pipelines: what a pass promises, how passes are named, parsed and run."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol

from pydantic import TypeAdapter, ValidationError

from fxprune.contexts import gc_paused
from fxprune.errors import PassError, SpecError, shown, unknown
from fxprune.plugins import Table
from fxprune.program import Program, state

Facts = tuple[type[Any], ...]


class Pass(Protocol):
    """Turn a program into a program. Its dataclass fields are its options everywhere."""

    name: ClassVar[str]
    requires: ClassVar[Facts]
    ensures: ClassVar[Facts]

    def __call__(self, program: Program) -> Program:
        """Return the program with the pass's promise kept."""


def _wrong(cls: Any) -> str:
    """Return what is wrong with a pass that is to be registered."""
    if not (isinstance(cls, type) and is_dataclass(cls)):
        return f"a pass is a frozen dataclass, not {shown(cls)}"
    lacking = [name for name in ("requires", "ensures") if not hasattr(cls, name)]
    return f"the pass {cls.__name__} lacks {', '.join(lacking)}" if lacking else ""


class Passes(Table[type[Any]]):
    """Hold passes by name, which each knows."""

    def __setitem__(self, name: str, cls: type[Any]) -> None:
        cls.name = name
        super().__setitem__(name, cls)


PASSES = Passes("fxprune.passes", _wrong)
register = PASSES.register


def run(program: Program, passes: Sequence[Pass]) -> Program:
    """Run passes in order; an error says which pass lacks what, and which pass provides it."""
    with gc_paused():
        for one in passes:
            program = _passed(program, one)
    return program


def _passed(program: Program, one: Pass) -> Program:
    for kind in one.requires:
        if kind not in program:
            raise PassError(
                f"{one.name}: needs a program that is {state(kind)}; "
                f"put {_provider(kind)} before it"
            )
    program.stage(one.name)
    began = time.perf_counter()
    after = one(program)
    for kind in one.ensures:
        if kind not in after:
            raise PassError(f"{one.name}: it ensures a program that is {state(kind)}, and did not")
    after.stage("")
    spent = {**after.seconds, one.name: time.perf_counter() - began}
    return replace(after, seconds=spent)


def _provider(kind: type[Any]) -> str:
    names = [name for name, cls in PASSES.items() if kind in cls.ensures]
    return " or ".join(names) or "another pass"


@dataclass(frozen=True)
class Option:
    """Describe one option of a pass: its name, type and default as text."""

    name: str
    type: str
    default: str

    def __str__(self) -> str:
        return f"{self.name}: {self.type}" + (f" = {self.default}" if self.default else "")


def options(cls: type[Any]) -> tuple[Option, ...]:
    """Return the options of a pass, read off its dataclass fields."""
    return tuple(Option(f.name, _said(f.type), _default(f)) for f in fields(cls))


def _said(kind: Any) -> str:
    """Return a type as its author wrote it, whether it is a text or a class by now."""
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _default(field: Field[Any]) -> str:
    """Return the default of an option as text; none where it has to be given."""
    if field.default_factory is not MISSING:
        return repr(field.default_factory())
    return "" if field.default is MISSING else repr(field.default)


def parse(text: str) -> tuple[Pass, ...]:
    """Parse `"couple,score{metric=l2},allocate{ratio=0.5},shrink"` into passes.

    Raises SpecError where a pass or an option is unknown, or a value has the wrong type.
    """
    if not re.fullmatch(r"\s*\w+\s*(\{[^{}]*\})?\s*(,\s*\w+\s*(\{[^{}]*\})?\s*)*", text):
        raise SpecError(
            f'passes: "{text}" is not a list of passes; write name or name{{option=value}}, '
            "separated by commas"
        )
    found = re.findall(r"(\w+)\s*(?:\{([^{}]*)\})?", re.sub(r"\s+", " ", text))
    return tuple(make(name, _pairs(name, inside)) for name, inside in _calls(found))


def _calls(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, inside) for name, inside in found if name]


def _pairs(name: str, inside: str) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in inside.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise SpecError(f'passes.{name}: "{part}" is not option=value')
        listed = [piece for piece in value.strip().split("|") if piece]
        pairs[key.strip()] = listed if "|" in value else value.strip()
    return pairs


def make(name: str, given: Mapping[str, Any]) -> Pass:
    """Return the pass `name` with options of the right types."""
    cls = PASSES.get(name)
    if cls is None:
        raise SpecError(f"passes: {unknown('pass', name, PASSES)}")
    known = [f.name for f in fields(cls)]
    for key in given:
        if key not in known:
            raise SpecError(f"passes.{name}: {unknown('option', key, known)}")
    try:
        return TypeAdapter(cls).validate_python(dict(given))  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SpecError(
            f"passes.{name}.{place}: {shown(first['input'])} is refused: {first['msg']}"
        ) from None
