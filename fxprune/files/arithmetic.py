"""Judge the arithmetic in a serialized program: sizes for sympy, guards for Python's `eval`."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

_NUMBER = re.compile(r"[-+]?[\d.]{1,40}([eE][-+]?\d{1,3})?")
SIZE = re.compile(r"[a-z]{1,3}\d{1,6}")
"""The name of a size: torch counts up to the number in it."""
_SYMBOL = re.compile(r"[A-Za-z_]\w{0,63}")
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift", "RShift"})
_CALLABLE = """Add Mul Integer Float Rational Max Min Abs Mod PythonMod FloorDiv CleanDiv CeilDiv
floor ceiling ModularIndexing Where CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt
RoundDecimal ToFloat Identity FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator
Equality Unequality GreaterThan LessThan StrictGreaterThan StrictLessThan Eq Ne Ge Le Gt Lt
And Or Not Piecewise ExprCondPair"""
_FUNCTIONS = _POWERS | frozenset(_CALLABLE.split())
_CONSTANTS = frozenset({"true", "false", "True", "False", "oo", "int_oo", "zoo", "nan", "pi", "E"})
_BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_PAIRS = frozenset({"Max", "Min"})
_LONGEST, _DEEPEST, _LARGEST_POWER = 10_000, 60, 64
_MOST_COMPARED, _MOST_PRODUCTS = 24, 500


def refuse_expression(text: Any) -> str | None:
    """Return why a string is not symbolic arithmetic, or None if it is."""
    if not isinstance(text, str) or len(text) > _LONGEST or not text.isascii():
        return "not a short ASCII string"
    if re.search(r"[^ -~]|[\\\"#;]", text):  # sympy joins lines before it parses; Python does not
        return "more than one plain line"
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "not an expression"
    return _refuse_literals(tree, text) or _refuse(tree.body, 0, powers=1) or _refuse_work(tree)


def _refuse_literals(tree: ast.Expression, text: str) -> str | None:
    """Judge numbers as they are written: sympy takes digits and exponents that Python rounds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            written = text[node.col_offset : node.end_col_offset]
            if not isinstance(node.value, bool) and not _NUMBER.fullmatch(written):
                return f"the number {show(written)}"
    return None


def _refuse(node: ast.expr, depth: int, *, powers: int) -> str | None:
    """Judge one subtree; `powers` counts how many more nested powers are allowed."""
    if depth > _DEEPEST:
        return "nested too deep"
    parts: list[ast.expr] = []
    if isinstance(node, ast.Constant):
        small = isinstance(node.value, (bool, float)) or (
            isinstance(node.value, int) and abs(node.value) < 2**64
        )
        return None if small else f"the constant {show(node.value)}"
    if isinstance(node, ast.Name):
        known = node.id in _CONSTANTS or SIZE.fullmatch(node.id)
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
        if name not in {"Symbol", "Float"} or keyword.arg is None or not flag:
            return f"the keyword {keyword.arg} of {name}"
    if name in {"Symbol", "Float"} and len(node.args) == 1 and isinstance(literal, str):
        pattern = _SYMBOL if name == "Symbol" else _NUMBER
        return None if pattern.fullmatch(literal) else f"{name}({show(literal)})"
    if name not in _FUNCTIONS:
        return f"a call of {name}"
    if name in _POWERS:
        return _refuse_power(node.args, depth, powers)
    whys = (_refuse(argument, depth + 1, powers=powers) for argument in node.args)
    return next((why for why in whys if why), None)


def _refuse_power(parts: list[ast.expr], depth: int, powers: int) -> str | None:
    """Allow one power with a small exponent: sympy computes powers, and 9**9**9 never ends."""
    exponent = parts[1] if len(parts) == 2 else None
    parts_of = ast.walk(exponent) if exponent else ()
    numbers = [item for item in parts_of if isinstance(item, ast.Constant)]
    values = [item.value for item in numbers if isinstance(item.value, (int, float))]
    simple = exponent is not None and len(values) == len(numbers) and 0 < len(numbers) <= 2
    if not simple or powers < 1 or any(abs(value) > _LARGEST_POWER for value in values):
        return "a power whose exponent is not a small number"
    whys = (_refuse(part, depth + 1, powers=powers - 1) for part in parts)
    return next((why for why in whys if why), None)


def _refuse_work(tree: ast.Expression) -> str | None:
    """Judge what sympy would make of an expression: it compares, multiplies out and divides."""
    compared = [
        len(node.args)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _PAIRS
    ]
    if sum(compared) > _MOST_COMPARED:  # each with each other
        return f"a maximum of {sum(compared)} sizes"
    products = _products(tree.body)
    return f"{products} products" if products > _MOST_PRODUCTS else None


def _products(node: ast.AST) -> int:
    """Return how many products an expression is a sum of, multiplied out; of parts, the most."""
    parts = [_products(part) for part in _operands(node)]
    kind = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    kind = type(node.op).__name__ if isinstance(node, ast.BinOp) else kind
    worst = max(parts, default=1)
    if worst > _MOST_PRODUCTS:  # numbers beyond are not worth the time
        return worst
    if kind in ("Add", "Sub"):
        return sum(parts)
    if kind in ("Mul", "Mult", "Div", "FloatTrueDiv", "IntTrueDiv"):
        return math.prod(parts)
    if kind in _POWERS:
        return math.comb(parts[0] + _exponent(node) - 1, _exponent(node))
    # whatever else is one thing to what it stands in, but its parts are multiplied out for it
    together = sum(parts)
    return together if together > _MOST_PRODUCTS else 1


def _operands(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Call):
        return [] if not isinstance(node.func, ast.Name) or node.func.id == "Symbol" else node.args
    return [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]


def _exponent(node: ast.AST) -> int:
    """Return the largest number in the exponent of a power, of which there is at least one."""
    exponent = _operands(node)[1]
    numbers = [item.value for item in ast.walk(exponent) if isinstance(item, ast.Constant)]
    return max(1, *(math.ceil(abs(one)) for one in numbers if isinstance(one, (int, float))))


_GUARD_CALLS = re.compile(
    r"torch\.sym_\w+|math\.(isnan|floor|ceil|trunc|sqrt|pow)|(max|min|int|float|Mod|Min|Max)"
)
_GUARD_PLACE = re.compile(
    r"(?<![\w.])L(\['[A-Za-z_]\w*'\]|\[\d{1,4}\])+(\.(size|stride)\(\)\[\d{1,2}\]|\.storage_offset\(\))?"
)


def refuse_guard(guard: Any) -> str | None:
    """Return why a string is not a guard such as `L['x'].size()[0] % 2 == 0`, or None if it is."""
    if not isinstance(guard, str) or re.search(r'[^ -~]|["\\#;:]', guard):
        return "not a plain expression"
    # Sizes become symbols and torch's functions Max, so that one grammar judges both languages.
    arithmetic = _GUARD_PLACE.sub("s0", guard)
    arithmetic = arithmetic.replace("math.inf", "1").replace("not ", "").replace("None", "0")
    arithmetic = re.sub(r" (and|or) ", " + ", arithmetic)
    arithmetic = re.sub(rf"(?<![\w.])({_GUARD_CALLS.pattern})\(", "Max(", arithmetic)
    return refuse_expression(arithmetic)


def show(value: Any) -> str:
    """Quote a value from the file in at most 60 characters, without control characters."""
    return ascii(value) if len(ascii(value)) <= 60 else ascii(value)[:57] + "..."
