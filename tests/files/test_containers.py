"""What `save` writes `load` reads, whatever containers a model takes and returns; no code runs."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxprune
from fxprune.errors import FileError, UntrustedFileError
from fxprune.files import archive
from tests.files.sabotage import edit, read, write


@dataclass
class Plain:
    y: Tensor
    more: Tensor | None = None


@dataclass
class Called(Plain):
    pass


Pair = namedtuple("Pair", "y more")


class Ordered(OrderedDict):  # type: ignore[type-arg]
    """A data class and a dictionary in one, registered when it is defined."""

    def __init_subclass__(cls) -> None:
        pytree.register_pytree_node(
            cls,
            pytree._dict_flatten,
            lambda values, keys: cls(**dict(zip(keys, values, strict=True))),
            serialized_type_name=f"{cls.__module__}.{cls.__name__}",
            flatten_with_keys_fn=pytree._dict_flatten_with_keys,
        )

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            if getattr(self, one.name) is not None:
                self[one.name] = getattr(self, one.name)


@dataclass
class Output(Ordered):
    y: Tensor | None = None
    more: Tensor | None = None


class Box:
    def __init__(self, y: Tensor, how: str) -> None:
        self.y, self.how = y, how


class Sealed(Box):
    pass


class Key(enum.Enum):
    Y = 1


torch.export.register_dataclass(Plain)
torch.export.register_dataclass(Called, serialized_type_name="mine.Called")
for cls, given in (
    (Box, {}),
    (
        Sealed,
        {
            "to_dumpable_context": lambda how: json.dumps([how]),
            "from_dumpable_context": lambda text: json.loads(text)[0],
        },
    ),
):
    pytree.register_pytree_node(
        cls,
        lambda box: ([box.y], box.how),
        lambda values, how, cls=cls: cls(*values, how),
        serialized_type_name=cls.__name__,
        flatten_with_keys_fn=lambda box: ([(pytree.GetAttrKey("y"), box.y)], box.how),
        **given,  # type: ignore[arg-type]
    )

CONTAINERS: dict[str, Callable[[Tensor], Any]] = {
    "data class": lambda y: Plain(y, y + 1),
    "data class without a part": Plain,
    "named data class": Called,
    "named tuple": lambda y: Pair(y, None),
    "ordered data class": lambda y: Output(y),
    "registered": lambda y: Box(y, "sure"),
    "registered with a reader": lambda y: Sealed(y, "sure"),
    "nested": lambda y: {"a": [Plain(y, Pair(y, (y + 1,)))]},  # type: ignore[arg-type]
    "enumeration": lambda y: {Key.Y: y},
    "factory": lambda y: defaultdict(list, {"y": y}),
    "of torch": lambda y: y.max(1),
}
TAKEN = [
    name for name in CONTAINERS if name not in ("nested", "enumeration", "factory", "of torch")
]


class Returns(nn.Module):
    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.made = nn.Linear(8, 16), nn.Linear(16, 3), made

    def forward(self, x: Tensor) -> Any:
        return self.made(self.b(self.a(x).relu()))


class Takes(Returns):
    def forward(self, x: Any) -> Any:
        return self.b(self.a(x["y"] if isinstance(x, dict) else x.y).relu())


def saved(model: nn.Module, x: Any, path: Path) -> Any:
    slim = fxprune.prune(model.eval(), {"objective": {"macs": 0.5}}, (x,))
    fxprune.save(slim, path)
    return slim


@pytest.mark.parametrize("name", CONTAINERS)
def test_outputs_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    slim = saved(Returns(CONTAINERS[name]), torch.randn(2, 8), tmp_path / "slim.pt2")
    loaded, x = fxprune.load(tmp_path / "slim.pt2"), torch.randn(5, 8)
    ours, theirs = slim(x), loaded(x)
    assert type(ours) is type(theirs)
    assert pytree.tree_structure(ours) == pytree.tree_structure(theirs)
    pairs = zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


@pytest.mark.parametrize("name", TAKEN)
def test_inputs_are_taken_as_they_were(name: str, tmp_path: Path) -> None:
    made = CONTAINERS[name]
    slim = saved(Takes(made), made(torch.randn(2, 8)), tmp_path / "slim.pt2")
    loaded = fxprune.load(tmp_path / "slim.pt2")
    x = made(torch.randn(5, 8))
    assert torch.equal(loaded(x), slim(x))
    (example,) = loaded.signature.args
    assert type(example) is type(x)
    fxprune.save(loaded, tmp_path / "again.pt2")
    assert torch.equal(fxprune.load(tmp_path / "again.pt2")(x), slim(x))


def renamed(path: Path, change: Callable[[str], str], to: Path) -> Path:
    """Rewrite the trees of inputs and outputs in a file."""
    records = read(path)

    def changed(value: Any) -> None:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key in ("in_spec", "out_spec") and isinstance(inner, str):
                value[key] = change(inner)
            elif isinstance(inner, (dict, list)):
                changed(inner)

    edit(records, changed)
    return write(records, to)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("data class", ("Plain", "Absent"), r"the type '.*:Absent' is not imported"),
        ("named tuple", ("Pair", "Absent"), r"the named tuple '.*:Absent' is not imported"),
        ("named tuple", (f"{__name__}:Pair", "builtins.dict"), "named tuple 'builtins.dict' is"),
        ("enumeration", (":Key", ":Absent"), "of an enumeration that is not imported"),
        ("named data class", ("mine.Called", "NO_SERIALIZED_TYPE_NAME_FOUND"), "is not imported"),
        ("ordered data class", ('\\"y\\"', '\\"y\' or 1\\"'), "has the key"),
        ("data class", ('[[\\"y\\"', '[[{\\"__enum__\\": true, \\"fqn\\": \\"a:b\\"}'), "enumerat"),
    ],
)
def test_a_stranger_cannot_name_more_than_is_here(
    name: str, change: tuple[str, str], said: str, tmp_path: Path
) -> None:
    saved(Returns(CONTAINERS[name]), torch.randn(2, 8), tmp_path / "slim.pt2")
    path = renamed(tmp_path / "slim.pt2", lambda spec: spec.replace(*change), tmp_path / "x.pt2")
    assert path.read_bytes() != (tmp_path / "slim.pt2").read_bytes()
    with pytest.raises(UntrustedFileError, match=said):
        fxprune.load(path)


class Named:
    """Take its only part under any name."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


def test_the_path_of_an_input_cannot_be_code(tmp_path: Path) -> None:
    """torch writes paths of inputs into source text, and a file says what they are."""
    pytree.register_pytree_node(
        Named,
        lambda one: (list(vars(one).values()), list(vars(one))),
        lambda values, names: Named(**dict(zip(names, values, strict=True))),
        serialized_type_name="named",
        flatten_with_keys_fn=lambda one: (
            [(pytree.GetAttrKey(name), value) for name, value in vars(one).items()],
            list(vars(one)),
        ),
    )

    class Reads(Returns):
        def forward(self, x: Any) -> Any:
            return self.b(self.a(x.y).relu())

    saved(Reads(Plain), Named(y=torch.randn(2, 8)), tmp_path / "slim.pt2")
    assert fxprune.load(tmp_path / "slim.pt2")
    evil = lambda spec: spec.replace('\\"y\\"', '\\"y or breakpoint()\\"')  # noqa: E731
    path = renamed(tmp_path / "slim.pt2", evil, tmp_path / "x.pt2")
    with pytest.raises(UntrustedFileError, match="an example input is called"):
        fxprune.load(path)


MODULE = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Out:
    y: torch.Tensor

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        return Out(self.b(self.a(x).relu()))
"""


def elsewhere(code: str, folder: Path) -> str:
    code = f"import sys; sys.path[:0] = [{str(folder)!r}]\nimport fxprune, torch\n{code}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(fxprune.__file__).parents[1],
    )
    return done.stdout + done.stderr


def test_a_data_class_is_found_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_out.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    from module_of_out import Net, Out  # type: ignore[import-not-found]

    torch.export.register_dataclass(Out)
    path = tmp_path / "slim.pt2"
    saved(Net(), torch.randn(2, 8), path)
    load = f"print(type(fxprune.load({str(path)!r}, trust=%s)(torch.randn(3, 8))))"
    assert "the type 'module_of_out:Out' is not imported; give --trust" in elsewhere(
        load % False, tmp_path
    )
    assert "<class 'module_of_out.Out'>" in elsewhere(load % True, tmp_path)
    registered = "import module_of_out; torch.export.register_dataclass(module_of_out.Out)\n"
    assert "<class 'module_of_out.Out'>" in elsewhere(registered + load % False, tmp_path)
    (tmp_path / "module_of_out.py").unlink()
    assert "make it importable" in elsewhere(load % True, tmp_path)


def test_damaged_inputs_are_said(tmp_path: Path) -> None:
    saved(Takes(Plain), Plain(torch.randn(2, 8)), tmp_path / "slim.pt2")
    for text in (b"no base 64", b"AAAA"):
        records = {**read(tmp_path / "slim.pt2"), "extra/fxprune.inputs": text}
        with pytest.raises(FileError, match="its example inputs are damaged"):
            archive.load_exported(write(records, tmp_path / "x.pt2"))
