"""Find what in a serialized torch.export program would run code, before torch reads it.

`torch.export.load` hands parts of `model.json` to `eval` (symbolic sizes), to `exec` (names of
nodes and arguments become source text, guards become statements), to `getattr` chains from `torch`
(operators) and to `importlib` (pytree contexts). Each has a small language in honest files; this
module knows those languages and gives a reason for everything else.

Not covered: an operator that computes a wrong answer, takes long or asks for much memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxprune.files import containers
from fxprune.files.arithmetic import SIZE, refuse_expression, refuse_guard, show

_PLAIN = re.compile(r"[^'\"\\\x00-\x1f\x7f]*")
"""Text that stays inside the quotes that torch's code generator puts around it."""

_NAMESPACES = frozenset({"aten", "prims", "torchvision", "quantized_decomposed"})
_TOUCH_FILES = frozenset({"from_file", "save"})
_REGION_NAMES = """wrap_with_set_grad_enabled wrap_with_autocast wrap_activation_checkpoint cond
while_loop scan tag_activation_checkpoint associative_scan map_impl invoke_subgraph out_dtype
strict_mode auto_functionalized auto_functionalized_v2 flex_attention hints_wrapper"""
_REGIONS = frozenset(_REGION_NAMES.split())
_SCALARS = {
    "_operator": "add sub mul floordiv truediv mod pow neg pos eq ne lt le gt ge and_ or_ not_ "
    "lshift rshift getitem",
    "math": "trunc floor ceil sqrt pow",
    "torch": "sym_ite sym_int sym_float sym_max sym_min sym_not sym_sum sym_sqrt _sym_sqrt",
}
_SCALAR_OPERATORS = frozenset(
    f"{module}.{name}" for module, names in _SCALARS.items() for name in names.split()
)


def reasons(document: Any) -> Iterator[str]:
    """Yield why a parsed `model.json` or payload config cannot be trusted; nothing if it can."""
    yield from _ranges(document)
    pending = [document]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            for key, value in item.items():
                # A dict below one of these keys belongs to a tensor that bears the key as its
                # name; torch's own reader accepts no dict in the field, so it is only walked.
                if key in _FIELDS and value is not None and not isinstance(value, dict):
                    yield from (f"{key} {why}" for why in _FIELDS[key](value))
            yield from _constant_inputs(item)
            pending.extend(item.values())


def _ranges(document: Any) -> Iterator[str]:
    """Allow names of sizes with small numbers: torch counts up to the largest of them."""
    ranges = document.get("range_constraints") if isinstance(document, dict) else None
    for name in ranges if isinstance(ranges, dict) else ():
        if not SIZE.fullmatch(name):
            yield f"range_constraints {show(name)} is no name of a size"


def _expression(value: Any) -> Iterator[str]:
    """Allow what sympy's `srepr` writes for symbolic sizes: calls of known names on numbers."""
    if why := refuse_expression(value):
        yield f"{show(value)}: {why}"


def _guards(value: Any) -> Iterator[str]:
    """Allow a list of comparisons of the inputs' sizes."""
    if not isinstance(value, list):
        yield "is not a list"
        return
    yield from (f"{show(guard)}: {why}" for guard in value if (why := refuse_guard(guard)))


def _operator(value: Any) -> Iterator[str]:
    """Allow registered tensor operators that touch no file, known regions, and scalar operators."""
    text = value if isinstance(value, str) else ""
    if text in _SCALAR_OPERATORS:
        return
    match = re.fullmatch(r"torch\.ops\.([A-Za-z]\w*)\.([A-Za-z_]\w*)(?:\.(\w+))?", text)
    space, name, overload = match.groups() if match else ("", "", None)
    if space == "higher_order" and name in _REGIONS and overload is None:
        return
    if space in _NAMESPACES and name not in _TOUCH_FILES and overload is not None:
        packet = getattr(getattr(torch.ops, space), name, None)
        if isinstance(packet, torch._ops.OpOverloadPacket) and overload in packet.overloads():
            return
    yield f"{show(value)} is not a known tensor operator"


def _source(value: Any) -> Iterator[str]:
    """Allow paths that stay inside torch: the reader walks them with getattr, without a call."""
    for entry in str(value).split(";"):
        path = entry.rpartition(",")[2]
        found: Any = torch
        for name in path.split(".")[1:] if path.startswith("torch") else ():
            outside = isinstance(found, ModuleType) and not found.__name__.startswith("torch")
            if outside or name.startswith("__"):
                yield f"{show(path)} leaves torch"
                break
            found = getattr(found, name, None)
        if path.startswith("#"):
            yield f"{show(path)} names an extension"


_FACTORIES = frozenset(
    {"list", "dict", "tuple", "set", "int", "float", "str", "bool", "OrderedDict"}
)


def _treespec(value: Any) -> Iterator[str]:
    """Allow pytrees of Python's containers; other types and enums import modules by name."""
    try:
        protocol, root = json.loads(value)
        pending = [root]
        if protocol != 1:
            yield f"has protocol {show(protocol)}"
        if _is_call(root):
            keys = json.loads(root["children_spec"][1]["context"])
            yield from (why for key in keys for why in _identifier(key))
        while pending:
            node = pending.pop()
            pending.extend(node["children_spec"])
            if node["type"] is not None or node["context"] is not None:
                yield from _container(node["type"], node["context"])
    except (TypeError, ValueError, KeyError, IndexError, RecursionError):
        yield "is malformed"


def _is_call(root: Any) -> bool:
    """Tell whether a tree is (args, kwargs), whose kwargs torch writes into source text."""
    children = root["children_spec"]
    return len(children) == 2 and children[1]["type"] == "builtins.dict"


def _container(kind: Any, context: Any) -> Iterator[str]:
    """Allow the containers that this process has, and what is plain of what they say of themselves.

    One that was registered with a reader of its own for that is trusted to read it.
    """
    if kind == containers.NAMED_TUPLE:
        if not containers.known_tuple(context):
            name = containers.tuple_name(context)
            yield f"is unknown here: the named tuple {show(name)} is not imported"
        return
    if kind == "collections.defaultdict":
        place = (context["default_factory_module"], context["default_factory_name"])
        if place[0] not in {"builtins", "collections"} or place[1] not in _FACTORIES:
            yield f"imports {show('.'.join(map(str, place)))}"
        yield from _texts(context["dict_context"])
        return
    cls = containers.known(kind)
    if cls is None:
        yield f"is unknown here: the type {show(kind)} is not imported"
    elif pytree.SUPPORTED_SERIALIZED_TYPES[cls].from_dumpable_context is None:
        yield from _texts(json.loads(context))


def _texts(context: Any) -> Iterator[str]:
    """Allow texts without quotes, and members of enumerations that are imported."""
    pending = [context]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict) and "__enum__" in item:
            if not containers.known_enum(item.get("fqn")):
                yield f"has the key {show(item)}, of an enumeration that is not imported"
        elif isinstance(item, dict):
            pending.extend([*item, *item.values()])
        elif not _PLAIN.fullmatch(str(item)):
            yield f"has the key {show(item)}"


def _identifier(value: Any) -> Iterator[str]:
    """Allow ASCII identifiers: torch writes names of nodes and arguments into source text."""
    if not isinstance(value, str) or not (value == "" or _SYMBOL_ANY.fullmatch(value)):
        yield f"{show(value)} is not an identifier"


_SYMBOL_ANY = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


def _identifiers(value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield "is not a list"
        return
    for name in value:
        yield from _identifier(name)


def _plain(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        yield f"{show(value)} holds quotes or control characters"


def _number(value: Any) -> Iterator[str]:
    if not isinstance(value, (int, float)) and value not in {"Infinity", "-Infinity", "NaN"}:
        yield f"{show(value)} is not a number"


def _pickled(value: Any) -> Iterator[str]:
    if value is not False:
        yield "asks for unpickling"


def _object(value: Any) -> Iterator[str]:
    yield f"{show(value)} asks for a script or custom object"


def _constant_inputs(item: dict[str, Any]) -> Iterator[str]:
    """Check strings given as inputs of a graph: torch quotes them into guards by hand."""
    inputs = item.get("inputs") if "nodes" in item else None
    constant = item.get("constant_input")
    if isinstance(constant, dict):
        inputs = [constant.get("value")]
    for entry in inputs if isinstance(inputs, list) else ():
        if isinstance(entry, dict) and "as_string" in entry:
            yield from (f"constant input {why}" for why in _plain(entry["as_string"]))


_FIELDS: dict[str, Callable[[Any], Iterator[str]]] = {
    "expr_str": _expression,
    "guards_code": _guards,
    "target": _operator,
    "as_operator": _operator,
    "source_fn_stack": _source,
    "in_spec": _treespec,
    "out_spec": _treespec,
    "name": _identifier,
    "as_name": _identifier,
    "user_input_name": _identifier,
    "forward_arg_names": _identifiers,
    "field_names": _identifiers,
    "fqn": _plain,
    "parameter_name": _plain,
    "buffer_name": _plain,
    "tensor_constant_name": _plain,
    "min_val": _number,
    "max_val": _number,
    "class_fqn": _object,
    "use_pickle": _pickled,
    "as_int": _number,
    "as_float": _number,
}
