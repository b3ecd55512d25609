"""How a pruned module is called: as the model was when it was captured."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.graph import CodeGen, _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

NUMBERS = itertools.count()


@dataclass(frozen=True)
class CallForm:
    """Hold the arguments of the captured call, and bind others to them or say what is wrong."""

    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    spec: Any
    constants: tuple[tuple[int, str, Any], ...]  # leaves that were no tensors: (place, name, value)
    absent: tuple[str, ...]  # arguments captured as None, which may be left out

    @classmethod
    def of(cls, info: _PyTreeInfo, graph: fx.Graph) -> CallForm:
        """Read the form off the graph's own calling convention and the captured constants."""
        args, kwargs = info.in_spec.children()
        names = tuple(info.orig_args)
        places = [node for node in graph.nodes if node.op == "placeholder"]
        constants = tuple(
            (k, str(node.target), node.meta["constant"])
            for k, node in enumerate(places)
            if "constant" in node.meta
        )
        nothing = {place for place, _, value in constants if value is None}
        absent, place = list[str](), 0
        for name, spec in zip(names, (*args.children(), *kwargs.children()), strict=True):
            absent += [name] if spec.is_leaf() and place in nothing else []
            place += spec.num_leaves
        keywords = tuple(kwargs.context or ())
        return cls(names[: args.num_children], keywords, info.in_spec, constants, tuple(absent))

    @property
    def open(self) -> tuple[str, ...]:
        """Return the names that may be given by position: of several keywords no order is known."""
        return (*self.positional, *(self.keywords if len(self.keywords) == 1 else ()))

    def admit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError where the names and the number of arguments are not those captured."""
        given = set(self.open[: len(args)])
        names = (*self.positional, *self.keywords)
        twice = [name for name in kwargs if name in given]
        unknown = [name for name in kwargs if name not in names]
        have = {*given, *kwargs, *self.absent}
        missing = [name for name in names if name not in have]
        if len(args) > len(self.open) or twice or unknown or missing:
            raise TypeError(self.refusal(args, twice, unknown, missing))

    def refusal(
        self, args: tuple[Any, ...], twice: list[str], unknown: list[str], missing: list[str]
    ) -> str:
        """Say what is wrong with a call, and how the model was captured."""
        facts = [
            f"{len(args)} positional arguments, {len(self.open)} taken"
            if len(args) > len(self.open)
            else "",
            f"given twice: {', '.join(twice)}" if twice else "",
            f"not captured: {', '.join(unknown)}" if unknown else "",
            f"missing: {', '.join(missing)}" if missing else "",
        ]
        return f"forward: {'; '.join(f for f in facts if f)}; expected {self}"

    def check(self, values: Sequence[Any]) -> list[Any]:
        """Return values flat; raise TypeError where their form or constants are others."""
        split = len(self.positional)
        keywords = dict(zip(self.keywords, values[split:], strict=True))
        try:
            leaves = self.spec.flatten_up_to((tuple(values[:split]), keywords))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            got = [pytree.tree_structure(value) for value in values]
            raise TypeError(f"forward: got {got}; expected {self} as {self.spec}") from error
        for place, name, value in self.constants:
            if leaves[place] is not value and (value is None or leaves[place] != value):
                raise TypeError(
                    f"forward: {name} was captured as {value!r} and is part of the graph; "
                    "capture the model again to call it otherwise"
                )
        return list(leaves)

    def __str__(self) -> str:
        return f"({', '.join([*self.positional, *(f'{name}=' for name in self.keywords)])})"

    def forwarding(self) -> Callable[..., Any]:
        """Return a `forward` with the arguments of the call, as code that tracers can read."""
        names, absent = (*self.positional, *self.keywords), False
        declared = ["self"]
        for name in self.open:
            absent |= name in self.absent  # what follows may be given by name
            declared.append(f"{name}=None" if absent else name)
        declared += ["*"] if len(self.open) < len(names) else []
        for name in names[len(self.open) :]:
            declared.append(f"{name}=None" if name in self.absent else name)
        given = ", ".join(names)
        return generated(
            "forward",
            f"def forward({', '.join(declared)}):",
            "    if not torch.jit.is_scripting():",
            f"        self._check({given})",
            f"    return self._run({given})",
        )

    def calling(self) -> Callable[..., Any]:
        """Return a `__call__` that says in our words what is wrong with its arguments."""
        return generated(
            "__call__",
            "def __call__(self, *args, **kwargs):",
            "    self._admit(args, kwargs)",
            "    return torch.nn.Module.__call__(self, *args, **kwargs)",
        )


def generated(name: str, *lines: str) -> Callable[..., Any]:
    """Return a function of its own code, which tracers and tracebacks can read."""
    source, file = "\n".join(lines) + "\n", f"<fxprune.call {next(NUMBERS)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"torch": torch}
    exec(compile(source, file, "exec"), namespace)
    made: Callable[..., Any] = namespace[name]
    return made


def called_plainly(graph: fx.Graph) -> CallForm | None:
    """Return how a graph is called, and let it take and return its values as they are.

    Where arguments are nested, or results are of a class of their own, its code flattens them.
    """
    codegen = graph._codegen
    if not isinstance(codegen, _PyTreeCodeGen):
        return None
    form, results = CallForm.of(codegen.pytree_info, graph), codegen.pytree_info.out_spec
    if results is None:
        return form
    args, kwargs = form.spec.children()
    if all(one.is_leaf() for one in (*args.children(), *kwargs.children())) and _builtin(results):
        output = graph.output_node()
        leaves = output.args[0]
        listed = leaves if isinstance(leaves, (list, tuple)) else [leaves]
        output.args = (pytree.tree_unflatten(list(listed), results),)
        graph._codegen = CodeGen()
    return form


def _builtin(spec: pytree.TreeSpec) -> bool:
    """Tell values in lists, tuples and tables by string, which the code of a graph can write."""
    if spec.is_leaf():
        return True
    named = spec.type is not dict or all(isinstance(key, str) for key in spec.context)
    return spec.type in (list, tuple, dict) and named and all(map(_builtin, spec.children()))
