"""Load only what cannot run code: hostile files of each sort, shown to bite without the check."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxprune import archive
from fxprune.arithmetic import refuse_expression, refuse_guard
from fxprune.errors import FileError, UntrustedFileError

Records = dict[str, bytes]
Sabotage = Callable[[Records, Path], None]


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: torch.Tensor, mode: str = "plain") -> dict[str, Any]:
        y = self.linear(x) + self.table
        return {"y": y, "pair": (y.view(-1, 2), torch.cat([x, y]))}


class Pickled:
    """Make a directory when unpickled: the harmless stand-in for `os.system`."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "tiny.pt2"
    dims = {"x": {0: torch.export.Dim("batch", min=2)}, "mode": None}
    program = torch.export.export(Tiny(), (torch.randn(4, 4), "plain"), dynamic_shapes=dims)
    archive.save_exported(program, path, {"spec.json": "{}"})
    return path


def read(path: Path) -> Records:
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def write(records: Records, path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in records.items():
            file.writestr(f"archive/{name}", data)
    return path


def edit(records: Records, change: Callable[[Any], None], name: str = "models/model.json") -> None:
    document = json.loads(records[name])
    change(document)
    records[name] = json.dumps(document).encode()


def torch_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def sample_inputs(records: Records, marker: Path) -> None:
    records["data/sample_inputs/model.pt"] = torch_pickle(((Pickled(marker),), {}))


def pickled_weight(records: Records, marker: Path) -> None:
    records["data/weights/weight_0"] = torch_pickle(Pickled(marker))

    def change(config: Any) -> None:
        config["config"]["linear.weight"].update(use_pickle=True, path_name="weight_0")

    edit(records, change, "data/weights/model_weights_config.json")


def legacy_weights(records: Records, marker: Path) -> None:
    records["data/weights/model.pt"] = torch_pickle({"linear.weight": Pickled(marker)})


def opaque_constant(records: Records, marker: Path) -> None:
    records["data/constants/opaque_obj_0"] = pickle.dumps(Pickled(marker))
    meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    name = "data/constants/model_constants_config.json"
    edit(records, lambda config: config["config"].update(evil=meta), name)


def symbolic_size(records: Records, marker: Path) -> None:
    def change(document: Any) -> None:
        sizes = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"__import__('os').mkdir({str(marker)!r})"

    edit(records, change)


def guard(records: Records, marker: Path) -> None:
    code = f"__import__('os').mkdir({str(marker)!r}) is None"
    edit(records, lambda document: document.update(guards_code=[code]))


def add_node(records: Records, target: str, **arguments: Any) -> None:
    """Put a call before the first node of the graph."""
    kinds = {str: "as_string", bool: "as_bool", int: "as_int"}
    inputs = [
        {"name": name, "arg": {kinds[type(value)]: value}, "kind": 1}
        for name, value in arguments.items()
    ]
    outputs = [{"as_tensor": {"name": "call"}}]
    node = {"target": target, "inputs": inputs, "outputs": outputs, "metadata": {}, "name": "call"}

    def change(document: Any) -> None:
        graph = document["graph_module"]["graph"]
        graph["nodes"].insert(0, node)
        graph["tensor_values"]["call"] = graph["tensor_values"]["x"]

    edit(records, change)


def operator_writes(records: Records, marker: Path) -> None:
    """Call the one operator that maps a file, and makes it where there is none."""
    target = "torch.ops.aten.from_file.default"
    add_node(records, target, filename=str(marker), shared=True, size=4)


def node_name(records: Records, marker: Path) -> None:
    """Name a placeholder so that the generated `def forward` has a default that is a call."""

    def change(document: Any) -> None:
        specs = document["graph_module"]["signature"]["input_specs"]
        assert specs[-1]["constant_input"]["name"] == "mode"
        specs[-1]["constant_input"]["name"] = f"mode=__import__('os').mkdir({str(marker)!r})"

    edit(records, change)


def argument_name(records: Records, marker: Path) -> None:
    def change(document: Any) -> None:
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"].append(f"z=__import__('os').mkdir({str(marker)!r})")

    edit(records, change)


def constant_input(records: Records, marker: Path) -> None:
    text = f"' or __import__('os').mkdir({str(marker)!r}) or '"
    raw = records["models/model.json"].decode()
    raw = raw.replace('{"as_string": "plain"}', json.dumps({"as_string": text}))
    records["models/model.json"] = raw.encode()


def evil_module(marker: Path) -> str:
    name = f"imported_by_{marker.parent.name.replace('-', '_')}"
    (marker.parent / f"{name}.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nx = list\n")
    return name


def treespec(records: Records, kind: str, context: Any) -> None:
    spec = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

    def change(document: Any) -> None:
        document["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = spec

    edit(records, change)


def treespec_factory(records: Records, marker: Path) -> None:
    context = {"default_factory_module": evil_module(marker), "default_factory_name": "x"}
    treespec(records, "collections.defaultdict", {**context, "dict_context": []})


def treespec_enum(records: Records, marker: Path) -> None:
    key = {"__enum__": True, "fqn": f"{evil_module(marker)}:x", "name": "append"}
    treespec(records, "builtins.dict", json.dumps([key]))


BITING: dict[str, Sabotage] = {
    sabotage.__name__: sabotage
    for sabotage in (
        *(sample_inputs, pickled_weight, legacy_weights, opaque_constant, symbolic_size, guard),
        *(operator_writes, node_name, argument_name, constant_input),
        *(treespec_factory, treespec_enum),
    )
}


@pytest.fixture(params=BITING)
def hostile(
    request: pytest.FixtureRequest, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Give a hostile file and the directory that appears if its code runs."""
    marker = tmp_path / "marker"
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    records = read(honest)
    BITING[request.param](records, marker)
    return write(records, tmp_path / "hostile.pt2"), marker


def test_hostile_file_is_refused_without_running(hostile: tuple[Path, Path]) -> None:
    path, marker = hostile
    with pytest.raises(UntrustedFileError, match=r"hostile\.pt2: not loaded: .*--trust"):
        archive.load_exported(path)
    assert not marker.exists()


def test_hostile_file_bites_with_trust(hostile: tuple[Path, Path]) -> None:
    path, marker = hostile
    try:
        program, _ = archive.load_exported(path, trust=True)
        program.module()(torch.randn(4, 4), "plain")
    except Exception:
        pass  # Most stumble after their code has run; only that it ran is of interest.
    assert marker.exists(), "the file is harmless, so its refusal proves nothing"


def test_honest_file_loads(honest: Path) -> None:
    program, extra = archive.load_exported(honest)
    assert extra == {"spec.json": "{}"}
    result = program.module()(torch.ones(6, 4), "plain")
    assert result["pair"][1].shape == (12, 4)
    assert read(honest).keys() >= {"models/model.json", "extra/spec.json"}


def test_honest_file_stays_honest_when_rezipped(honest: Path, tmp_path: Path) -> None:
    _, extra = archive.load_exported(write(read(honest), tmp_path / "again.pt2"))
    assert "spec.json" in extra


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.load_library",
        "torch.ops.aten.add.Tensor.__call__",
        "torch.ops.aten.add",
        "torch.ops.image.write_file.default",
        "torch.ops.higher_order.call_torchbind",
        "torch.hub.load",
        "_operator.methodcaller",
        "_operator.add.__class__",
        "math.factorial",
        "#extension:name",
    ],
)
def test_operators_that_are_no_tensor_arithmetic(honest: Path, tmp_path: Path, target: str) -> None:
    records = read(honest)
    add_node(records, target, text="text")
    with pytest.raises(UntrustedFileError, match="not a known tensor operator"):
        archive.inspect_pt2(write(records, tmp_path / "x.pt2"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("data/aotinductor/model/model.so", "native code"),
        ("data/constants/custom_obj_0", "pickled object"),
        ("extra/../../escape", "does not write"),
        ("/etc/passwd", "does not write"),
        ("models/other.json", "does not write"),
        ("serialized_state_dict.pt", "does not write"),
        ("Models/model.json", "does not write"),
        ("extra/SPEC.json", "two records of one name"),
    ],
)
def test_records_that_do_not_belong(honest: Path, tmp_path: Path, name: str, reason: str) -> None:
    records = {**read(honest), name: b"{}"}
    with pytest.raises(UntrustedFileError, match=reason):
        archive.inspect_pt2(write(records, tmp_path / "x.pt2"))


def test_zip_bomb(honest: Path, tmp_path: Path) -> None:
    records = {**read(honest), "extra/zeros": bytes(50_000_000)}
    path = write(records, tmp_path / "x.pt2", zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    with pytest.raises(UntrustedFileError, match="zip bomb"):
        archive.inspect_pt2(path)


def test_weight_larger_than_its_record(honest: Path, tmp_path: Path) -> None:
    records = read(honest)

    def change(config: Any) -> None:
        config["config"]["linear.weight"]["tensor_meta"]["sizes"] = [{"as_int": 10**12}]

    edit(records, change, "data/weights/model_weights_config.json")
    with pytest.raises(UntrustedFileError, match="larger than what is stored"):
        archive.inspect_pt2(write(records, tmp_path / "x.pt2"))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "truncated or damaged"),
        (lambda data: b"no archive at all", "is not a .pt2 archive"),
        (lambda data: b"", "is not a .pt2 archive"),
    ],
)
def test_damaged_file(honest: Path, tmp_path: Path, damage: Any, reason: str, trust: bool) -> None:
    path = tmp_path / "x.pt2"
    path.write_bytes(damage(honest.read_bytes()))
    with pytest.raises(FileError, match="cannot be loaded" if trust else reason) as caught:
        archive.load_exported(path, trust=trust)
    assert not isinstance(caught.value, UntrustedFileError)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_other_zips_are_named(honest: Path, tmp_path: Path) -> None:
    torch.save(Tiny().state_dict(), tmp_path / "weights.pt2")
    with pytest.raises(FileError, match=r"not a \.pt2 archive"):
        archive.load_exported(tmp_path / "weights.pt2")
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as file:
        file.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(FileError, match="older torch"):
        archive.load_exported(tmp_path / "old.pt2")
    records = {**read(honest), "archive_version": b"99"}
    with pytest.raises(FileError, match="version 99"):
        archive.load_exported(write(records, tmp_path / "new.pt2"))
    with pytest.raises(FileError, match="No such file"):
        archive.load_exported(tmp_path / "missing.pt2")


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "FloorDiv(Symbol('s77', positive=True, integer=True), Integer(2))",
        "Mul(Integer(6), Max(Integer(1), TruncToInt(Mul(Float('1.5', precision=53), s3))))",
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "GreaterThan(Symbol('u0', integer=True), Integer(0))",
        "Add(Mul(Integer(-1), s0), Rational(1, 2))",
        "s0**2 + 3 >= 4",
    ],
)
def test_arithmetic_is_allowed(text: str) -> None:
    assert refuse_expression(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "open('x')",
        "s0.__class__",
        "[s0 for s0 in (1,)]",
        "(lambda: 1)()",
        "Symbol('a b')",
        "Symbol(name='s0')",
        "Integer('1')",
        "Function('f')(1)",
        "9**9**9",
        "Pow(Integer(9), Integer(10000000))",
        "Pow(Pow(Pow(9, 64), 64), 64)",
        "LShift(1, 10000000000)",
        "10000000000000000000000000",
        "factorial(1000000)",
        "s0 #\n+ 1",
        "eval",
        "f'{s0}'",
        "(" * 5000 + "1" + ")" * 5000,
        "-" * 5000 + "1",
        None,
    ],
)
def test_more_than_arithmetic_is_refused(text: Any) -> None:
    assert refuse_expression(text) is not None


def test_guards() -> None:
    for good in (
        "(4*L['x'].size()[0]) == (8*(L['x'].size()[0] // 2))",
        "torch.sym_max(1, (-2) + L['x'].size()[0]) <= L['kw']['k'].stride()[1]",
        "L['flat_args'][0].size()[0] % 2 != 0",
    ):
        assert refuse_guard(good) is None
    for bad in ("L['x'].foo() == 1", "L['x\"'].size()[0] == 1", "torch.load('x') == 1", "1\n2", 3):
        assert refuse_guard(bad) is not None


def test_pickled_module_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UntrustedFileError, match="--trust"):
        archive.load_pickled_module(path)
    assert isinstance(archive.load_pickled_module(path, trust=True), nn.Linear)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (nn.Linear(2, 2).state_dict(), "state dict"),
        ({"model": nn.Linear(2, 2), "epoch": 3}, "checkpoint"),
        ([1, 2], "holds a list"),
    ],
)
def test_pickle_that_is_no_module(tmp_path: Path, value: Any, reason: str) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(FileError, match=reason):
        archive.load_pickled_module(tmp_path / "x.pt", trust=True)


def test_pickle_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"x\.pt: cannot be loaded"):
        archive.load_pickled_module(tmp_path / "x.pt", trust=True)


def test_save_leaves_the_old_file_when_it_fails(honest: Path, tmp_path: Path) -> None:
    program, _ = archive.load_exported(honest)
    path = tmp_path / "x.pt2"
    path.write_text("precious")
    with pytest.raises(FileError, match="cannot be saved"):
        archive.save_exported(program, path, {"x": 3})  # type: ignore[dict-item]
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileError, match="cannot be written"):
        archive.save_exported(program, tmp_path / "missing" / "x.pt2", {})
