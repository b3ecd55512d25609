"""select: choose the targets that may lose units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from fxprune.errors import SpecError
from fxprune.pipeline import register, unknown
from fxprune.program import Program
from fxprune.targets import ALL_KINDS, Discovery, Target, Terms


@register("select")
@dataclass(frozen=True)
class Select:
    """Keep to targets of a kind, named by patterns, of a size; with exact, removable traceless.

    `more` adds to what an earlier select chose. What is selected may have a `metric` and bounds of
    its own: `min_keep`, `min_ratio`, `max_ratio` and `round_to`.
    """

    kind: str | tuple[str, ...] = "all"
    include: str | tuple[str, ...] = ()
    exclude: str | tuple[str, ...] = ()
    type: str | tuple[str, ...] = ()
    min_units: int = 2
    max_units: int | None = None
    exact: bool = False
    metric: str | Mapping[str, Any] | None = None
    min_keep: int | None = None
    min_ratio: float | None = None
    max_ratio: float | None = None
    round_to: int | Literal["auto"] | None = None
    more: bool = False
    where: str = "target"

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled",)
    ensures: ClassVar[tuple[str, ...]] = ()

    def __call__(self, program: Program) -> Program:
        """Return the program with targets selected; selecting none, or one twice, is an error."""
        kinds = _listed(self.kind)
        for kind in kinds:
            if kind not in (*ALL_KINDS, "all"):
                raise SpecError(f"{self.where}.kind: {unknown('kind', kind, (*ALL_KINDS, 'all'))}")
        assert program.discovery is not None
        targets = program.discovery.targets
        if program.origin is None:
            self._check(program.discovery)
        # What has been cut before is what it was: a selection means the same in every step.
        of = program.origin.of if program.origin is not None else (lambda target: target)
        discovery = program.origin.discovery if program.origin is not None else program.discovery
        chosen = tuple(one for one in targets if self._takes(of(one), kinds, discovery))
        if not chosen and program.origin is None:
            raise SpecError(f"{self.where}: {self._nothing(targets, kinds)}")
        earlier, terms = (program.selected, program.terms) if self.more else ((), ())
        for target in set(earlier) & set(chosen):
            raise SpecError(
                f"{self.where}: {target.name} is in an earlier selection too; exclude it from one "
                "of them"
            )
        terms = (*terms, *(self._terms() for _ in chosen))
        return program.with_(selected=(*earlier, *chosen), terms=terms, scores=())

    def _check(self, discovery: Discovery) -> None:
        """Raise SpecError where a pattern names nothing in the model."""
        known = [target.name for target in discovery.targets] + _places(discovery.parameters)
        names = [target.name.split(":")[0] for target in discovery.targets]
        for field, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in _listed(patterns):
                if not any(fnmatchcase(name, pattern) for name in known):
                    raise SpecError(f"{self.where}.{field}: {unknown('module', pattern, names)}")
        if not self.type:
            return
        types = sorted({kind for target in discovery.targets for kind in discovery.types(target)})
        for pattern in _listed(self.type):
            if not any(fnmatchcase(kind, pattern) for kind in types):
                bare = [kind for kind in types if "." not in kind]
                raise SpecError(f"{self.where}.type: {unknown('module type', pattern, bare)}")

    def _takes(self, target: Target, kinds: Sequence[str], discovery: Discovery) -> bool:
        if not ("all" in kinds or target.kind in kinds):
            return False
        if self.type and not any(
            fnmatchcase(kind, pattern)
            for kind in discovery.types(target)
            for pattern in _listed(self.type)
        ):
            return False
        return (
            (not self.include or any(map(target.matches, _listed(self.include))))
            and not any(map(target.matches, _listed(self.exclude)))
            and self.min_units <= len(target) <= (self.max_units or len(target))
            and (target.exact or not self.exact)
        )

    def _terms(self) -> Terms:
        metric = {"name": self.metric} if isinstance(self.metric, str) else self.metric
        options = {k: v for k, v in (metric or {}).items() if k != "name"}
        bounds = ("min_keep", "min_ratio", "max_ratio", "round_to")
        return Terms(
            (str(metric["name"]), options) if metric else None,
            {name: v for name in bounds if (v := getattr(self, name)) is not None},
        )

    def _nothing(self, targets: Sequence[Target], kinds: Sequence[str]) -> str:
        have = sorted({target.kind for target in targets})
        if not have:
            return "the model has no target at all; `fxprune inspect` says what pins it"
        if not any(target.kind in kinds for target in targets) and "all" not in kinds:
            return f"no target of kind {', '.join(kinds)}; the model has {', '.join(have)}"
        return "kind, include, exclude, type, size and exact together leave no target; relax one"


def _places(parameters: Iterable[str]) -> list[str]:
    """Return the names of parameters and of every module around them."""
    paths = [name.split(".") for name in parameters]
    return [".".join(path[:n]) for path in paths for n in range(1, len(path) + 1)]


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
