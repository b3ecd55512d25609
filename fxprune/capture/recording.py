"""Record the ATen graph of a plain forward quickly, as `torch.export` (non-strict) would write it.

The forward runs once on fake tensors whose leading axes are symbols, and every operator that it
calls is written down above autograd, undecomposed. What is out of the ordinary is refused: regions,
constants made of data, writes to inputs or parameters, modules with several paths, sizes that are
no multiple of a batch, and above all anything that asks which number the batch is. Whatever is
refused, `torch.export` itself captures.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._export.non_strict_utils import _NonStrictTorchFunctionHandler, _override_builtin_ops
from torch._export.utils import _compiling_state_context
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export._trace import _ignore_backend_decomps
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fxprune.capture.call_sites import CallSites, Refused, ordinary
from fxprune.capture.own_backward import within
from fxprune.capture.symbolic_batch import SymbolicBatch
from fxprune.graphs import set_tensor, tensors_of, vacant
from fxprune.program import Signature, by_name

aten = torch.ops.aten
# what asks about a tensor and computes nothing
ASKING = {"sym_size", "sym_stride", "sym_numel", "sym_storage_offset", "sym_is_contiguous"}
ASKING |= {"size", "stride", "numel", "dim", "device", "is_contiguous"}
NUMBERS = {"item", "_local_scalar_dense", "is_nonzero"}  # what makes a number of a tensor


def record(model: nn.Module, signature: Signature) -> fx.GraphModule:
    """Return the graph of a model in evaluation mode, in a module that reads its tensors.

    The axes that `signature` calls dynamic are so in the graph, each a symbol of its own. Raises
    Refused where any of it is out of the ordinary; other errors are the model's or the tracer's.
    """
    ordinary(model)
    if any(type(one).__setattr__ is not nn.Module.__setattr__ for one in model.modules()):
        raise Refused("a module does more than to hold a tensor that it is given")
    tape = Tape(model, signature)
    with tape.running(model):
        result = model(*tape.args, **tape.kwargs)
    graph = tape.finished(result)
    module, persistent = vacant(graph), set(model.state_dict(keep_vars=True))
    module.meta["asked"] = sorted(tape.asked)
    for name, tensor in tensors_of(model).items():
        set_tensor(module, name, tensor, persistent=name in persistent)
    return module


class Tape:
    """Write down what runs: a graph, and which of its nodes made which fake tensor."""

    def __init__(self, model: nn.Module, signature: Signature) -> None:
        self.env = ShapeEnv()
        self.fake = FakeTensorMode(shape_env=self.env, export=True)
        self.graph = fx.Graph()
        self.call_sites = CallSites(model)
        self._symbolic = SymbolicBatch(self.fake)
        self._nodes: dict[int, fx.Node] = {}
        self._fresh: dict[int, fx.Node] = {}  # made of no tensor, by the storage
        self._held: list[torch.Tensor] = []  # keeps those alive whose id() is a key
        self._sizes: dict[Any, fx.Node] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.asked: set[str] = set()  # tensors of which the forward asks what numbers they hold
        self._given = tensors_of(model)
        self._read(model)
        self._callers = set(map(id, self.tensors.values()))  # what is theirs, or a view of it
        self._place(model, signature)

    def _read(self, model: nn.Module) -> None:
        """Stand a fake tensor for every tensor of the model; the last of its names is read."""
        made: dict[int, torch.Tensor] = {}
        for name, tensor in tensors_of(model).items():
            if id(tensor) not in made:
                made[id(tensor)] = _stand_in(self.fake, tensor)
            self.tensors[name] = fake = made[id(tensor)]
            self._nodes[id(fake)] = self.graph.get_attr(name)
            self._nodes[id(fake)].meta["val"] = fake

    def _place(self, model: nn.Module, signature: Signature) -> None:
        """Make the inputs: the leaves of the signature, by the names that the forward has."""
        leaves, spec = pytree.tree_flatten((signature.args, signature.kwargs))
        names = list(by_name(model, signature.args, signature.kwargs))
        if len(names) != len(leaves) or not all(spec.is_leaf() for spec in _each(spec)):
            raise Refused("arguments are nested")
        fakes: list[Any] = []
        for name, leaf, free in zip(names, leaves, signature.dynamic, strict=True):
            node = self.graph.placeholder(name)
            fakes.append(self._input(node, leaf, free) if torch.is_tensor(leaf) else leaf)
            node.meta["val"] = fakes[-1]
        self.args, self.kwargs = pytree.tree_unflatten(fakes, spec)
        self._spec, self._names = spec, names

    def _input(self, node: fx.Node, leaf: torch.Tensor, free: bool) -> torch.Tensor:
        sizes = [DimDynamic.STATIC] * leaf.ndim
        if free:
            sizes[0] = DimDynamic.DYNAMIC
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        fake = self.fake.from_tensor(leaf, symbolic_context=context)
        if id(fake) in self._nodes or type(leaf) is not torch.Tensor or leaf.requires_grad:
            raise Refused("an input is given twice, or of a kind of its own")
        self._nodes[id(fake)] = node
        self._callers.add(id(fake))
        if free:
            batch: Any = fake.shape[0]
            with self.graph.inserting_after(node):
                size = self.graph.call_function(aten.sym_size.int, (node, 0))
            size.meta["val"] = batch
            self._sizes[batch.node.expr] = size
            self._symbolic.add(batch)
        return fake

    @contextmanager
    def running(self, model: nn.Module) -> Iterator[None]:
        """Have everything that the model calls come here, the model reading fake tensors."""
        self._guards = len(self.env.guards)
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
        if name in ASKING:
            return op(*args, **kwargs)
        if name in NUMBERS:
            with _disable_current_modes():
                return op(self._known(self._argument(args[0])))
        regions = torch._C._is_any_autocast_enabled() or not torch.is_grad_enabled()
        if regions and not within():
            raise Refused("a region of its own mode")
        if op._schema.is_mutable:
            self._allow(op, args, kwargs)
        node_args = tuple(self._argument(arg) for arg in args)
        node_kwargs = {name: self._argument(arg) for name, arg in kwargs.items()}
        self._unasked()
        out = self._run(op, args, kwargs)
        self._answered()
        self._follow(op, args, out)
        node = self.graph.create_node(
            "call_function", op, node_args, node_kwargs, op.overloadpacket.__name__
        )
        self._made(node, out)
        return out

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
        except Exception:  # an operator with rules of its own for fake tensors, or a fixed batch
            return op(*args, **kwargs)

    def _unasked(self) -> None:
        """Refuse a forward that has asked which number a batch is, in between its operators."""
        env = self.env
        if len(env.guards) != self._guards or env.replacements or env.num_deferred_runtime_asserts:
            raise Refused("the forward asks for the size of the batch")

    def _answered(self) -> None:
        """Let an operator choose by bounds of a batch, such as the layout of its result."""
        for guard in self.env.guards[self._guards :]:
            if getattr(guard.expr, "rel_op", "") not in ("<", "<=", ">", ">=", "!="):
                raise Refused(f"an operator asks for {guard.expr}")
        self._guards = len(self.env.guards)

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
            return self._size(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._argument(one) for one in value)
        if isinstance(value, (torch.SymFloat, torch.SymBool, dict, torch.Generator)):
            raise Refused(f"an argument is a {type(value).__name__}")
        return value

    def _node(self, value: torch.Tensor) -> fx.Node:
        """Return the node of a tensor.

        What torch's own functions make of no tensor, such as `torch.arange`, they hand out as
        another tensor of the same storage.
        """
        if id(value) in self._nodes:
            return self._nodes[id(value)]
        fresh = isinstance(value, FakeTensor) and not value.requires_grad
        node = self._fresh.get(value.untyped_storage()._cdata) if fresh else None
        if node is None or not _alike(node.meta["val"], value):
            raise Refused("a tensor is neither computed nor a parameter, buffer or input")
        self._held.append(value)
        self._nodes[id(value)] = node
        return node

    def _size(self, value: torch.SymInt) -> Any:
        """Return the node of a size: the batch, or a multiple of it."""
        expr = value.node.expr
        if expr.is_Integer:
            return int(expr)
        if expr not in self._sizes:
            factor, rest = expr.as_coeff_Mul()
            if rest not in self._sizes or not factor.is_Integer:
                raise Refused(f"a size is {expr}")
            node = self.graph.call_function(operator.mul, (self._sizes[rest], int(factor)))
            node.meta["val"] = value
            self._sizes[expr] = node
        return self._sizes[expr]

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
        if not any(isinstance(one.meta["val"], torch.Tensor) for one in node.all_input_nodes):
            self._fresh[out.untyped_storage()._cdata] = node

    def finished(self, result: Any) -> fx.Graph:
        """Return the graph, which ends in the result of the forward."""
        self._unasked()
        leaves, spec = pytree.tree_flatten(result)
        if not all(isinstance(one, FakeTensor) for one in leaves):
            raise Refused("a result is no tensor")
        nodes = tuple(map(self._node, leaves))
        if any(node.op != "call_function" for node in nodes):
            raise Refused("a result is an input, parameter or buffer")
        self.graph.output(nodes)
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


def _alike(made: torch.Tensor, value: torch.Tensor) -> bool:
    """Tell whether two tensors of one storage are the same of it."""
    layouts = ((one.shape, one.stride(), one.storage_offset(), one.dtype) for one in (made, value))
    return len(set(map(str, layouts))) == 1  # as texts, since sizes that are compared are asked


def _stand_in(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """Return a fake tensor for a parameter or buffer."""
    with torch.no_grad():
        bare = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    fake = FakeTensor(mode, bare, tensor.device)
    if isinstance(tensor, nn.Parameter):
        fake._is_param = True
    return fake.requires_grad_(tensor.requires_grad)
