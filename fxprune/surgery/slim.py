"""The module that comes out: a GraphModule of leaf modules that can be copied and pickled."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fxprune.capture import put
from fxprune.files.storage import compacted_state
from fxprune.surgery.call_form import CallForm
from fxprune.surgery.graph_records import graph_of, records

M = TypeVar("M", bound=nn.Module)
KEPT_META = ("nn_module_stack", "stack_trace", "constant")
DERIVED = ("_graph", "_code", "_lineno_map", "_prologue_start", "_in_spec", "_out_spec")


class Mode(nn.Module):
    """Return whether the module is in training, for an operator that takes it as an argument."""

    def forward(self) -> bool:
        return self.training


class SlimModule(fx.GraphModule):
    """Run a graph of leaf modules under the names, the call and the modes of the original model.

    `report`, `plan` and `signature` belong to whoever made it; copies and pickles keep them.
    `modes_after` are the modes that the original's own `train` and `eval` leave its modules in.
    """

    report: Any = None
    plan: Any = None
    signature: Any = None
    modes_after: Mapping[bool, Mapping[str, bool]] = MappingProxyType({})
    _form: CallForm | None = None  # without one, any call that the graph's own code takes
    __jit_ignored_attributes__ = ("report", "plan", "signature", "modes_after", "_form")

    def __init__(
        self,
        tree: nn.Module,
        graph: fx.Graph,
        name: str = "SlimModule",
        form: CallForm | None = None,
    ) -> None:
        """Take over the children and tensors of `tree`, on whose paths the graph's nodes stand."""
        super().__init__(nn.Module(), fx.Graph(), name)
        mine = vars(self)
        for kind in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            mine[kind] = vars(tree)[kind]
        mine |= {k: v for k, v in vars(tree).items() if k not in vars(nn.Module())}
        self._named(name)
        self._form = form
        self.graph = graph

    def _named(self, name: str) -> None:
        self._graphmodule_cls_name = name
        type(self).__name__ = type(self).__qualname__ = name
        type(self).__module__ = __name__

    def recompile(self) -> fx.graph.PythonCode:
        """Generate `forward` from the graph, behind one that checks what it is given.

        What is generated is this instance's own: a compiler keeps few versions of one code.
        """
        kind: Any = type(self)
        if self._form is None:
            return super().recompile()
        kind.__call__ = self._form.calling()
        if "_wrapped_call" in vars(kind):  # in which torch keeps the one that it found first
            del kind._wrapped_call
        code = super().recompile()
        run = kind.forward
        run.__name__ = "_run"  # under which torch.jit compiles it
        kind._run, kind.forward = run, self._form.forwarding()
        return code

    def _admit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError where the arguments are not those that were captured."""
        if self._form is not None:
            self._form.admit(args, kwargs)

    def _check(self, *values: Any) -> None:
        """Raise TypeError where values differ from those captured, InputError for their sizes.

        A proxy has neither.
        """
        if torch.compiler.is_dynamo_compiling() or self._form is None:
            return
        if not any(isinstance(one, fx.Proxy) for one in pytree.tree_leaves(values)):
            leaves = self._form.check(values)
            if self.signature is not None:
                self.signature.check(leaves)

    def train(self, mode: bool = True) -> SlimModule:
        """Set the mode, of each module as the original does."""
        super().train(mode)
        if mode in self.modes_after:
            put(self, self.modes_after[mode])
        return self

    def write_back(self, model: M) -> M:
        """Narrow `model`, which was pruned, in place and return it: proven equal, or unchanged."""
        from fxprune.surgery.own_class import write_back  # it captures, which takes loading

        return write_back(self, self.plan, self.signature, model)

    def __str__(self) -> str:
        return nn.Module.__repr__(self)

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in vars(self).items() if k not in DERIVED}
        return state | {"_graph_records": records(self._graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        nodes = state.pop("_graph_records")
        vars(self).update(state)
        self._named(str(self._graphmodule_cls_name))
        self.graph = graph_of(nodes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (), compacted_state(self.__getstate__(), self._stored())

    def _stored(self) -> Iterator[torch.Tensor]:
        """Yield the tensors that go into a pickle."""
        yield from self.parameters()
        yield from self.buffers()
        given = getattr(self.signature, "args", ()), getattr(self.signature, "kwargs", {})
        yield from (one for one in pytree.tree_leaves(given) if isinstance(one, torch.Tensor))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def __copy__(self) -> SlimModule:
        twin = _blank()
        twin.__setstate__(self.__getstate__())
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> SlimModule:
        twin = memo[id(self)] = _blank()
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin


def _blank() -> SlimModule:
    """Return a module without state: every instance has a class of its own, made here."""
    return SlimModule.__new__(SlimModule)
