"""select: choose the targets that may lose units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from fxprune.errors import SpecError
from fxprune.pipeline import register, unknown
from fxprune.program import Program
from fxprune.targets import ALL_KINDS, Target


@register("select")
@dataclass(frozen=True)
class Select:
    """Keep to targets of a kind, named by patterns, and (with exact) removable without a trace."""

    kind: str | tuple[str, ...] = "all"
    include: str | tuple[str, ...] = ()
    exclude: str | tuple[str, ...] = ()
    exact: bool = False

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled",)
    ensures: ClassVar[tuple[str, ...]] = ()

    def __call__(self, program: Program) -> Program:
        """Return the program with fewer targets selected; selecting none is an error."""
        kinds = _listed(self.kind)
        for kind in kinds:
            if kind not in (*ALL_KINDS, "all"):
                raise SpecError(f"target.kind: {unknown('kind', kind, (*ALL_KINDS, 'all'))}")
        assert program.discovery is not None
        targets = program.discovery.targets
        known = [target.name for target in targets] + _places(program.discovery.parameters)
        for field, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in _listed(patterns):
                if not any(fnmatchcase(name, pattern) for name in known):
                    names = [target.name.split(":")[0] for target in targets]
                    raise SpecError(f"target.{field}: {unknown('module', pattern, names)}")
        chosen = tuple(target for target in targets if self._takes(target, kinds))
        if not chosen:
            raise SpecError(f"target: {self._nothing(targets, kinds)}")
        return program.with_(selected=chosen, scores=())

    def _takes(self, target: Target, kinds: Sequence[str]) -> bool:
        return (
            ("all" in kinds or target.kind in kinds)
            and (not self.include or any(map(target.matches, _listed(self.include))))
            and not any(map(target.matches, _listed(self.exclude)))
            and (target.exact or not self.exact)
        )

    def _nothing(self, targets: Sequence[Target], kinds: Sequence[str]) -> str:
        have = sorted({target.kind for target in targets})
        if not have:
            return "the model has no target at all; `fxprune inspect` says what pins it"
        if not any(target.kind in kinds for target in targets) and "all" not in kinds:
            return f"no target of kind {', '.join(kinds)}; the model has {', '.join(have)}"
        return "kind, include, exclude and exact together leave no target; relax one of them"


def _places(parameters: Iterable[str]) -> list[str]:
    """Return the names of parameters and of every module around them."""
    paths = [name.split(".") for name in parameters]
    return [".".join(path[:n]) for path in paths for n in range(1, len(path) + 1)]


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
