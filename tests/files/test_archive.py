"""Load only what cannot run code: hostile files of each sort, shown to bite without the check."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.errors import FileError, UntrustedFileError
from fxprune.files import archive
from fxprune.files.arithmetic import refuse_expression, refuse_guard
from tests.files.sabotage import (
    BITING,
    Tiny,
    add_node,
    edit,
    read,
    write,
)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "tiny.pt2"
    dims = {"x": {0: torch.export.Dim("batch", min=2)}, "mode": None}
    program = torch.export.export(Tiny(), (torch.randn(4, 4), "plain"), dynamic_shapes=dims)
    archive.save_exported(program, path, {"spec.json": "{}"})
    return path


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


NO_MODULES: dict[str, Callable[[], Any]] = {
    "state dict": lambda: nn.Linear(2, 2).state_dict(),
    "checkpoint": lambda: {"model": nn.Linear(2, 2), "epoch": 3},
    "holds a list": lambda: [1, 2],
}


@pytest.mark.parametrize("reason", NO_MODULES)
def test_pickle_that_is_no_module(tmp_path: Path, reason: str) -> None:
    torch.save(NO_MODULES[reason](), tmp_path / "x.pt")
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
