"""Find what in a serialized torch.export program would run code, before torch reads it.

`torch.export.load` hands parts of `model.json` to `eval` (symbolic sizes), to `exec` (names of
nodes and arguments become source text, guards become statements), to `getattr` chains from `torch`
(operators) and to `importlib` (pytree contexts). Each has a small language in honest files; this
module knows those languages and gives a reason for everything else.

Not covered: an operator that computes a wrong answer, takes long or asks for much memory.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

_PLAIN = re.compile(r"[^'\"\\\x00-\x1f\x7f]*")
"""Text that stays inside the quotes that torch's code generator puts around it."""

_NAMESPACES = frozenset({"aten", "prims", "torchvision", "quantized_decomposed"})
_TOUCH_FILES = frozenset({"from_file", "save"})
_REGIONS = frozenset(
    "wrap_with_set_grad_enabled wrap_with_autocast wrap_activation_checkpoint cond while_loop scan "
    "tag_activation_checkpoint associative_scan map_impl invoke_subgraph out_dtype strict_mode "
    "auto_functionalized auto_functionalized_v2 flex_attention hints_wrapper".split()
)
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


def _expression(value: Any) -> Iterator[str]:
    """Allow what sympy's `srepr` writes for symbolic sizes: calls of known names on numbers."""
    if why := refuse_expression(value):
        yield f"{_show(value)}: {why}"


_NUMBER = re.compile(r"[-+]?[\d.]{1,40}([eE][-+]?\d{1,4})?")
_SYMBOL = re.compile(r"[A-Za-z_]\w{0,63}")
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift", "RShift"})
_FUNCTIONS = _POWERS | frozenset(
    "Add Mul Integer Float Rational Max Min Abs Mod PythonMod FloorDiv CleanDiv CeilDiv floor "
    "ceiling ModularIndexing Where CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt "
    "RoundDecimal ToFloat Identity FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator "
    "Equality Unequality GreaterThan LessThan StrictGreaterThan StrictLessThan Eq Ne Ge Le Gt Lt "
    "And Or Not Piecewise ExprCondPair".split()
)
_CONSTANTS = frozenset({"true", "false", "True", "False", "oo", "int_oo", "zoo", "nan", "pi", "E"})
_BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_LONGEST, _DEEPEST, _LARGEST_POWER = 10_000, 60, 64


def refuse_expression(text: Any) -> str | None:
    """Return why a string is not symbolic arithmetic, or None if it is."""
    if not isinstance(text, str) or len(text) > _LONGEST or not text.isascii():
        return "not a short ASCII string"
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "not an expression"
    return _refuse(tree.body, 0, powers=1)


def _refuse(node: ast.expr, depth: int, *, powers: int) -> str | None:
    """Judge one subtree; `powers` counts how many more nested powers are allowed."""
    if depth > _DEEPEST:
        return "nested too deep"
    parts: list[ast.expr] = []
    if isinstance(node, ast.Constant):
        small = isinstance(node.value, (bool, float)) or (
            isinstance(node.value, int) and abs(node.value) < 2**64
        )
        return None if small else f"the constant {_show(node.value)}"
    if isinstance(node, ast.Name):
        known = node.id in _CONSTANTS or re.fullmatch(r"[a-z]{1,3}\d{1,9}", node.id)
        return None if known else f"the name {node.id}"
    if isinstance(node, ast.Call):
        return _refuse_call(node, depth, powers)
    if isinstance(node, ast.BinOp) and isinstance(node.op, _BINARY):
        parts = [node.left, node.right]
        if isinstance(node.op, ast.Pow):
            return _refuse_power(parts, depth, powers)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        parts = [node.operand]
    elif isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
        if any(isinstance(op, (ast.In, ast.NotIn, ast.Is, ast.IsNot)) for op in node.ops):
            return "a comparison that is not of numbers"
    elif isinstance(node, ast.Tuple):
        parts = node.elts
    else:
        return f"a {type(node).__name__}"
    return next((why for part in parts if (why := _refuse(part, depth + 1, powers=powers))), None)


def _refuse_call(node: ast.Call, depth: int, powers: int) -> str | None:
    """Allow `Symbol('s0', integer=True)`, `Float('1.5', precision=53)` and the known functions."""
    if not isinstance(node.func, ast.Name):
        return "a call of something that is not a plain name"
    name, first = node.func.id, node.args[0] if node.args else None
    literal = first.value if isinstance(first, ast.Constant) else None
    for keyword in node.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        flag = isinstance(value, bool) or (isinstance(value, int) and 0 < value < 10_000)
        if name not in {"Symbol", "Float", "Dummy"} or keyword.arg is None or not flag:
            return f"the keyword {keyword.arg} of {name}"
    if name in {"Symbol", "Float"} and len(node.args) == 1 and isinstance(literal, str):
        pattern = _SYMBOL if name == "Symbol" else _NUMBER
        return None if pattern.fullmatch(literal) else f"{name}({_show(literal)})"
    if name not in _FUNCTIONS:
        return f"a call of {name}"
    if name in _POWERS:
        return _refuse_power(node.args, depth, powers)
    whys = (_refuse(argument, depth + 1, powers=powers) for argument in node.args)
    return next((why for why in whys if why), None)


def _refuse_power(parts: list[ast.expr], depth: int, powers: int) -> str | None:
    """Allow one power with a small literal exponent: sympy computes them, and 9**9**9 never ends."""
    exponent = parts[1] if len(parts) == 2 else None
    numbers = (
        [item for item in ast.walk(exponent) if isinstance(item, ast.Constant)] if exponent else []
    )
    values = [item.value for item in numbers if isinstance(item.value, (int, float))]
    simple = exponent is not None and len(values) == len(numbers) and 0 < len(numbers) <= 2
    if not simple or powers < 1 or any(abs(value) > _LARGEST_POWER for value in values):
        return "a power whose exponent is not a small number"
    whys = (_refuse(part, depth + 1, powers=powers - 1) for part in parts)
    return next((why for why in whys if why), None)


_GUARD_CALLS = re.compile(
    r"torch\.sym_\w+|math\.(isnan|floor|ceil|trunc|sqrt|pow)|(max|min|int|float|Mod|Min|Max)"
)
_GUARD_PLACE = re.compile(
    r"L(\['[A-Za-z_]\w*'\]|\[\d{1,4}\])+(\.(size|stride)\(\)\[\d{1,2}\]|\.storage_offset\(\))?"
)


def _guards(value: Any) -> Iterator[str]:
    """Allow comparisons of the sizes of inputs, `L['x'].size()[0] % 2 == 0`."""
    if not isinstance(value, list):
        yield "is not a list"
        return
    for guard in value:
        if not isinstance(guard, str) or re.search(r'["\\#\n\r;:]', guard):
            yield f"{_show(guard)}: not a plain expression"
            continue
        # Sizes become symbols and torch's functions Max, so that one grammar judges both.
        arithmetic = _GUARD_PLACE.sub("s0", guard)
        arithmetic = arithmetic.replace("math.inf", "1").replace("not ", "").replace("None", "0")
        arithmetic = re.sub(r" (and|or) ", " + ", arithmetic)
        arithmetic = re.sub(rf"(?<![\w.])({_GUARD_CALLS.pattern})\(", "Max(", arithmetic)
        if why := refuse_expression(arithmetic):
            yield f"{_show(guard)}: {why}"


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
    yield f"{_show(value)} is not a known tensor operator"


def _source(value: Any) -> Iterator[str]:
    """Allow paths that stay inside torch: the reader walks them with getattr, without a call."""
    for entry in str(value).split(";"):
        path = entry.rpartition(",")[2]
        found: Any = torch
        for name in path.split(".")[1:] if path.startswith("torch") else ():
            outside = isinstance(found, ModuleType) and not found.__name__.startswith("torch")
            if outside or name.startswith("__"):
                yield f"{_show(path)} leaves torch"
                break
            found = getattr(found, name, None)
        if path.startswith("#"):
            yield f"{_show(path)} names an extension"


_CONTAINERS = frozenset(
    {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
    | {"collections.defaultdict", "collections.deque", "collections.namedtuple"}
)
_FACTORIES = frozenset(
    {"list", "dict", "tuple", "set", "int", "float", "str", "bool", "OrderedDict"}
)


def _treespec(value: Any) -> Iterator[str]:
    """Allow pytrees of Python's containers; other types and enums import modules by name."""
    try:
        protocol, root = json.loads(value)
        pending = [root]
        if protocol != 1:
            yield f"has protocol {_show(protocol)}"
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
    if kind not in _CONTAINERS:
        yield f"holds the type {_show(kind)}"
        return
    if kind == "collections.namedtuple":  # its context is looked up among registered names only
        return
    if kind == "collections.defaultdict":
        place = (context["default_factory_module"], context["default_factory_name"])
        if place[0] not in {"builtins", "collections"} or place[1] not in _FACTORIES:
            yield f"imports {_show('.'.join(map(str, place)))}"
        keys = context["dict_context"]
    else:
        keys = json.loads(context)
    for key in keys if isinstance(keys, list) else [keys]:
        if isinstance(key, (dict, list)) or not _PLAIN.fullmatch(str(key)):
            yield f"has the key {_show(key)}"


def _identifier(value: Any) -> Iterator[str]:
    """Allow ASCII identifiers: torch writes names of nodes and arguments into source text."""
    if not isinstance(value, str) or not (value == "" or _SYMBOL_ANY.fullmatch(value)):
        yield f"{_show(value)} is not an identifier"


_SYMBOL_ANY = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


def _identifiers(value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield "is not a list"
        return
    for name in value:
        yield from _identifier(name)


def _plain(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        yield f"{_show(value)} holds quotes or control characters"


def _number(value: Any) -> Iterator[str]:
    if not isinstance(value, (int, float)) and value not in {"Infinity", "-Infinity", "NaN"}:
        yield f"{_show(value)} is not a number"


def _pickled(value: Any) -> Iterator[str]:
    if value is not False:
        yield "asks for unpickling"


def _object(value: Any) -> Iterator[str]:
    yield f"{_show(value)} asks for a script or custom object"


def _constant_inputs(item: dict[str, Any]) -> Iterator[str]:
    """Check strings given as inputs of a graph: torch quotes them into guards by hand."""
    inputs = item.get("inputs") if "nodes" in item else None
    constant = item.get("constant_input")
    if isinstance(constant, dict):
        inputs = [constant.get("value")]
    for entry in inputs if isinstance(inputs, list) else ():
        if isinstance(entry, dict) and "as_string" in entry:
            yield from (f"constant input {why}" for why in _plain(entry["as_string"]))


def _show(value: Any) -> str:
    """Quote a value from the file in at most 60 characters, without control characters."""
    return ascii(value) if len(ascii(value)) <= 60 else ascii(value)[:57] + "..."


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
}
