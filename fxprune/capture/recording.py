"""Record the ATen graph of a plain forward quickly, as `torch.export` (non-strict) would write it.

The forward runs once on fake tensors whose axes are symbols, and every operator that it calls is
written down above autograd, undecomposed. What the forward asks about sizes becomes a condition, or
fixes an axis, and the recording is begun again. What is out of the ordinary is refused: regions,
constants made of data, writes to inputs or parameters, modules with several paths. Whatever is
refused, `torch.export` itself captures.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._export.non_strict_utils import _NonStrictTorchFunctionHandler, _override_builtin_ops
from torch._export.utils import _compiling_state_context
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export._trace import _ignore_backend_decomps
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fxprune.capture.call_sites import CallSites, Refused, ordinary
from fxprune.capture.empty_tensors import empty_call
from fxprune.capture.free_axes import Axes, Restart
from fxprune.capture.marker import handed_on
from fxprune.capture.own_backward import within
from fxprune.capture.size_builtins import following
from fxprune.capture.size_nodes import SizeNodes
from fxprune.capture.size_questions import (
    SizeEnv,
    Unknown,
    Vector,
    asked_in_python,
    asking_line,
    same,
)
from fxprune.capture.symbolic_sizes import SymbolicSizes, bare, holding
from fxprune.graphs import set_tensor, tensors_of, vacant
from fxprune.signature import Call, by_name

aten = torch.ops.aten
# what asks about a tensor and computes nothing
ASKING = {"sym_size", "sym_stride", "sym_numel", "sym_storage_offset", "sym_is_contiguous"}
ASKING |= {"size", "stride", "numel", "dim", "device", "is_contiguous"}
NUMBERS = {"item", "_local_scalar_dense", "is_nonzero"}  # what makes a number of a tensor


ATTEMPTS = 12  # after which only the leading axes stay free


def record(
    model: nn.Module,
    call: Call,
    axes: Axes,
    spaces: Sequence[dict[str, Any]] = (),
    again: Callable[[], Any] = lambda: None,
) -> tuple[fx.GraphModule, Axes]:
    """Return the graph of a model in evaluation mode, in a module that reads its tensors.

    `axes` are those of the call's leaves that may be free; those that stay so come back, each a
    symbol in the graph. `spaces` are the namespaces of the caller's code, and `again` puts back
    what a forward that was stopped has changed. Raises Refused where any of it is out of the
    ordinary; other errors are the model's or the tracer's.
    """
    ordinary(model)
    tape: Tape | None = None
    for attempt in range(2 * ATTEMPTS):
        if attempt == ATTEMPTS:
            axes = axes.leading("its size is asked for in too many ways")
        tape = Tape(model, call, axes, tape)
        try:
            with tape.running(model), following(spaces, tape.followed):
                result = model(*tape.args, **tape.kwargs)
            if tape.met is not None:  # the forward has caught it
                raise tape.met
            graph = tape.finished(result)
        except Restart as met:
            axes = tape.restarted(met)
            again()
            continue
        except Exception as error:  # what was learned of the axes holds all the same
            error.axes = axes  # type: ignore[attr-defined]
            raise
        module, persistent = vacant(graph), set(model.state_dict(keep_vars=True))
        module.meta["asked"] = sorted(tape.asked)
        for name, tensor in tensors_of(model).items():
            set_tensor(module, name, tensor, persistent=name in persistent)
        return module, tape.known()
    raise Refused("its sizes are asked for in too many ways")


class Tape:
    """Write down what runs: a graph, and which of its nodes made which fake tensor."""

    def __init__(self, model: nn.Module, call: Call, axes: Axes, before: Tape | None) -> None:
        self.axes = axes
        self.met: Restart | None = None
        self.conditions: dict[Any, str] = {}  # what the forward has asked, and where
        self.env = SizeEnv(self._question)
        self.fake = FakeTensorMode(shape_env=self.env, export=True)
        self.graph = fx.Graph()
        self.call_sites = CallSites(model)
        self._sizes = SizeNodes(self.graph)
        self._symbolic = SymbolicSizes(self.fake, self.env)
        self._nodes: dict[int, fx.Node] = {}
        self._factories: dict[Any, fx.Node] = {}  # by where their results are stored
        self._alive: list[torch.Tensor] = []  # keeps the tensors whose id() is a key
        self._leaves: set[int] = set()
        self._empty: set[int] = set()  # tensors without a number, made of none
        self.tensors: dict[str, torch.Tensor] = {}
        self.asked: set[str] = set()  # tensors of which the forward asks what numbers they hold
        self._given = tensors_of(model)
        self._read(before.tensors if before is not None else {})
        self._callers = set(map(id, self.tensors.values()))  # what is theirs, or a view of it
        self._place(model, call)

    def _question(self, expr: Any, values: Vector) -> None:
        """Take what is asked about sizes: by an operator, or by the forward itself."""
        if self._symbolic.asked(expr, values):
            return
        held = holding(expr, values)
        if same(values):
            if asked_in_python():  # what kernels ask, such as whether a size is 1, is no condition
                self.conditions.setdefault(held, asking_line())
            return
        number = "the forward asks for its value" if not isinstance(values[0], bool) else ""
        self.met = self.met or Restart(held, asking_line(), number)
        raise self.met

    def followed(self, value: Any) -> Any:
        """Return the size that a symbolic number is, or None."""
        try:
            vector = self.env.evaluated(value.node.expr)
        except Unknown:
            return None
        return self._symbolic.known(tuple(int(one) for one in vector))

    def restarted(self, met: Restart) -> Axes:
        """Return the axes as they are known once a wrong assumption was met."""
        wider = {s: sum(of) for s, of in self._symbolic.bases.items()}
        if wider and met.expr.free_symbols & wider.keys():
            about = sum(met.expr.xreplace(wider).free_symbols)
            why = met.why or "a size that has no formula depends on it"
            met = Restart(about, met.line, why, met.by)
        return self.axes.after(met)

    def known(self) -> Axes:
        """Return the axes with what the forward has asked."""
        some = dict(self.axes.conditions) | self.conditions
        opaque = self._symbolic.bases.keys()
        told = tuple((e, line) for e, line in some.items() if not e.free_symbols & opaque)
        return replace(self.axes, conditions=told)

    def _read(self, before: Mapping[str, torch.Tensor]) -> None:
        """Stand a fake tensor for every tensor of the model; the last of its names is read.

        Those of an attempt before this one are taken over.
        """
        made: dict[int, Any] = {}
        for name, tensor in self._given.items():
            if id(tensor) not in made:
                made[id(tensor)] = before.get(name)
                if made[id(tensor)] is None:
                    made[id(tensor)] = _stand_in(self.fake, tensor)
                made[id(tensor)].fake_mode = self.fake
            self.tensors[name] = fake = made[id(tensor)]
            self._nodes[id(fake)] = self.graph.get_attr(name)
            self._nodes[id(fake)].meta["val"] = fake

    def _place(self, model: nn.Module, call: Call) -> None:
        """Make the inputs: the leaves of the call, by the names that the forward has."""
        leaves, spec = pytree.tree_flatten(call)
        names = list(by_name(model, *call))
        if len(names) != len(leaves) or not all(spec.is_leaf() for spec in _each(spec)):
            raise Refused("arguments are nested")
        columns = self.axes.columns()
        if columns is None:
            raise Refused("no other sizes are allowed")
        self._symbols = {
            place: self.env.symbol(int(str(symbol)[1:]), columns[symbol])
            for place, symbol in self.axes.symbols.items()
        }
        for size in self._symbols.values():
            self._symbolic.add(size)
        fakes: list[Any] = []
        for k, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
            node = self.graph.placeholder(name)
            fakes.append(self._input(node, leaf, k) if torch.is_tensor(leaf) else leaf)
            node.meta["val"] = fakes[-1]
        self.args, self.kwargs = pytree.tree_unflatten(fakes, spec)
        self._spec, self._names = spec, names

    def _input(self, node: fx.Node, leaf: torch.Tensor, k: int) -> torch.Tensor:
        if type(leaf) is not torch.Tensor or leaf.requires_grad or id(leaf) in self._leaves:
            raise Refused("an input is given twice, or of a kind of its own")
        self._leaves.add(id(leaf))
        shape = [self._symbols.get((k, d), leaf.shape[d]) for d in range(leaf.ndim)]
        strides = dense(leaf, shape)
        if strides is None:
            raise Refused("an input is a view with holes")
        with bare(), self._symbolic.asking():
            empty = torch.empty_strided(shape, strides, dtype=leaf.dtype, device="meta")
        fake = FakeTensor(self.fake, empty, leaf.device)
        self._nodes[id(fake)] = node
        self._callers.add(id(fake))
        self._sizes.of(node, fake)
        return fake

    @contextmanager
    def running(self, model: nn.Module) -> Iterator[None]:
        """Have everything that the model calls come here, the model reading fake tensors."""
        with ExitStack() as stack:
            stack.enter_context(_compiling_state_context())
            stack.enter_context(_ignore_backend_decomps())
            stack.enter_context(_reparametrize_module(model, self.tensors))
            stack.enter_context(self.fake)
            stack.enter_context(_NonStrictTorchFunctionHandler())
            stack.enter_context(_override_builtin_ops())
            stack.enter_context(enable_python_dispatcher())
            stack.enter_context(self.call_sites.following())
            stack.enter_context(_Recorder(self))
            yield
            if any(now is not self.tensors[n] for n, now in tensors_of(model).items()):
                raise Refused("a parameter or buffer is put in place of another")

    def take(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write an operator down and return its fake result."""
        if not isinstance(op, torch._ops.OpOverload):
            raise Refused(f"{op} takes functions")
        name = op._schema.name.removeprefix("aten::").removeprefix("prim::")
        if op is handed_on and self._shown(*args):
            return args[0]
        if name in ASKING:
            return self._symbolic.in_symbols(op, args, kwargs)
        if name in NUMBERS:
            with _disable_current_modes():
                return op(self._known(self._argument(args[0])))
        if (empty := empty_call(op, args)) is not None:
            op, args, kwargs = empty
        elif op is aten.detach_.default and id(args[0]) in self._empty:
            return args[0]
        regions = torch._C._is_any_autocast_enabled() or not torch.is_grad_enabled()
        if regions and not within():
            raise Refused("a region of its own mode")
        if op._schema.is_mutable:
            self._allow(op, args, kwargs)
        node_args = tuple(self._argument(arg) for arg in args)
        node_kwargs = {name: self._argument(arg) for name, arg in kwargs.items()}
        out = self._run(op, args, kwargs)
        self._follow(op, args, out)
        node = self.graph.create_node(
            "call_function", op, node_args, node_kwargs, op.overloadpacket.__name__
        )
        self._made(node, out)
        self._empty |= {id(out)} if empty is not None else set()
        if isinstance(out, FakeTensor) and not any(
            isinstance(one.meta.get("val"), torch.Tensor) for one in node.all_input_nodes
        ):
            self._factories[out.untyped_storage()._cdata] = node
        return out

    def _shown(self, value: torch.Tensor, path: str) -> bool:
        """Tell whether a module shows in the graph by itself, and needs no marker."""
        node = self._nodes.get(id(value))
        stack = node.meta.get("nn_module_stack") or {} if node is not None else {}
        return bool(stack) and next(reversed(stack.values()))[0] == path

    def _known(self, node: fx.Node) -> torch.Tensor:
        """Return the value of a tensor that is made of parameters and buffers alone."""
        if node.op == "get_attr":
            self.asked.add(str(node.target))
            return self._given[str(node.target)].detach()
        if node.op != "call_function" or node.target._schema.is_mutable:  # type: ignore[union-attr]
            raise Refused("a number depends on the inputs")
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._known)
        value: torch.Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
        return value

    def _run(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self._symbolic.run(op, args, kwargs)
        except Unknown:  # an operator with rules of its own for fake tensors
            return self._symbolic.in_symbols(op, args, kwargs)
        except Restart as met:
            self.met = self.met or met
            raise

    def _allow(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse writes to what the caller owns, and those that change a shape."""
        if torch.Tag.inplace_view in op.tags:
            raise Refused(f"{op} changes a shape in place")
        for argument, value in zip(op._schema.arguments, args, strict=False):
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes and (not isinstance(value, FakeTensor) or id(value) in self._callers):
                raise Refused(f"{op} writes to an input, parameter or buffer")
        if any(one.alias_info is not None and one.name in kwargs for one in op._schema.arguments):
            raise Refused(f"{op} writes to a keyword argument")

    def _follow(self, op: Any, args: tuple[Any, ...], out: Any) -> None:
        """Note views of the caller's tensors."""
        if any(one.alias_info is not None for one in op._schema.returns):
            pairs = zip(op._schema.arguments, args, strict=False)
            if any(a.alias_info is not None and id(v) in self._callers for a, v in pairs):
                self._callers.update(map(id, out if isinstance(out, (list, tuple)) else [out]))

    def _argument(self, value: Any) -> Any:
        """Return an argument as the graph has it."""
        if isinstance(value, torch.Tensor):
            return self._node(value)
        if isinstance(value, torch.SymInt):
            return self._sizes(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._argument(one) for one in value)
        if isinstance(value, (torch.SymFloat, torch.SymBool, dict, torch.Generator)):
            raise Refused(f"an argument is a {type(value).__name__}")
        return value

    def _node(self, value: torch.Tensor) -> fx.Node:
        """Return the node of a tensor: what is made of no tensor comes to the forward detached."""
        if id(value) not in self._nodes:
            key = value.untyped_storage()._cdata if isinstance(value, FakeTensor) else None
            if key not in self._factories or value.shape != self._factories[key].meta["val"].shape:
                raise Refused("a tensor is neither computed nor a parameter, buffer or input")
            self._nodes[id(value)] = self._factories[key]
            self._alive.append(value)
        return self._nodes[id(value)]

    def _made(self, node: fx.Node, out: Any) -> None:
        node.meta |= {
            "nn_module_stack": self.call_sites.stack,
            "stack_trace": self.call_sites.lines(),
        }
        node.meta["val"] = out
        if isinstance(out, (list, tuple)):
            for k, one in enumerate(out):
                part = self.graph.call_function(operator.getitem, (node, k))
                part.meta = dict(node.meta)
                self._is(part, one)
        else:
            self._is(node, out)

    def _is(self, node: fx.Node, out: Any) -> None:
        if not isinstance(out, FakeTensor):
            raise Refused(f"{node.target} returns no tensor")
        node.meta["val"] = out
        self._nodes[id(out)] = node
        self._sizes.of(node, out)

    def finished(self, result: Any) -> fx.Graph:
        """Return the graph, which ends in the result of the forward."""
        leaves, spec = pytree.tree_flatten(result)
        if not all(isinstance(one, FakeTensor) for one in leaves):
            raise Refused("a result is no tensor")
        nodes = tuple(self._node(one) for one in leaves)
        if any(node.op != "call_function" for node in nodes):
            raise Refused("a result is an input, parameter or buffer")
        self.graph.output(nodes)
        self.env.ask = lambda expr, values: None  # whoever reads sizes later gets the example's
        self.graph._codegen = _PyTreeCodeGen(_PyTreeInfo(self._names, self._spec, spec))
        return self.graph


class _Recorder(ProxyTorchDispatchMode):
    """Hand every operator to a tape before autograd or a decomposition sees it."""

    def __init__(self, tape: Tape) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self.enter_stack = []
        self._tape = tape

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._tape.take(func, args, kwargs or {})

    def __sym_dispatch__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)


def _each(spec: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    args, kwargs = spec.children()
    return [*args.children(), *kwargs.children()]


def dense(tensor: torch.Tensor, shape: Sequence[Any]) -> list[Any] | None:
    """Return the strides of a tensor of other sizes that lies in memory in the same order.

    None where the tensor itself has holes, or rows that are one.
    """
    steps = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda d: (-steps[d], -tensor.shape[d]))
    strides, real, symbolic = [0] * tensor.ndim, 1, 1
    for d in reversed(order):
        if steps[d] != real and tensor.shape[d] != 1:
            return None
        strides[d] = symbolic
        real, symbolic = real * tensor.shape[d], symbolic * shape[d]
    return strides


def _stand_in(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """Return a fake tensor for a parameter or buffer."""
    with torch.no_grad():
        bare = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    fake = FakeTensor(mode, bare, tensor.device)
    if isinstance(tensor, nn.Parameter):
        fake._is_param = True
    return fake.requires_grad_(tensor.requires_grad)
