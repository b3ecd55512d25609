"""Compare ONNX files: in turn, on the same inputs, and with one line for what is wrong."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fxprune.errors import FileError, FxpruneError, InputError
from fxprune.onnx.bench import bench, common_feeds, facts, timed
from fxprune.onnx.costs import costs
from fxprune.onnx.reading import generate, read
from fxprune.onnx.turns import WARM, in_turn
from tests.onnx import command
from tests.onnx.command import refuses
from tests.support.told_clock import ToldClock


def model(
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Any] | None]],
    weights: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """Build a model from its nodes to `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, kind, dims) for n, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def dense(width: int, batch: Any = "batch", name: str = "x") -> onnx.ModelProto:
    """Multiply rows of 256 by a matrix 256 x width, and back."""
    rng = np.random.default_rng(0)
    weights = {
        "up": rng.standard_normal((256, width)).astype(np.float32),
        "down": rng.standard_normal((width, 256)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", [name, "up"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "down"], ["y"]),
    ]
    return model(nodes, {name: (TensorProto.FLOAT, [batch, 256])}, weights)


@pytest.fixture
def folder(tmp_path: Path, told_clock: ToldClock, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(dense(64), "narrow.onnx")
    onnx.save(dense(2048), "wide.onnx")
    onnx.save(dense(64, batch=4), "fixed.onnx")
    onnx.save(dense(64, name="z"), "renamed.onnx")
    loose = model(
        [helper.make_node("Cast", ["ids"], ["y"], to=TensorProto.FLOAT)],
        {"ids": (TensorProto.INT64, ["batch", "sequence"])},
    )
    onnx.save(loose, "loose.onnx")
    (tmp_path / "junk.onnx").write_text("junk")
    (tmp_path / "empty.onnx").write_bytes(b"")
    wrong = dense(64)
    wrong.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(wrong, "wrong.onnx")
    return tmp_path


# ---- time ----------------------------------------------------------------------------------------


def test_runs_take_turns() -> None:
    seen: list[str] = []
    runs: list[Callable[[], Any]] = [lambda name=name: seen.append(name) for name in "abc"]
    ticks = itertools.count()
    taken = in_turn(runs, rounds=2, clock=lambda: float(next(ticks)))
    assert "".join(seen) == "abc" * (WARM + 2)
    assert taken == [[1.0, 1.0]] * 3


def test_runs_go_on_for_the_seconds_asked() -> None:
    ticks = itertools.count()
    (taken,) = in_turn([lambda: None], rounds=1, seconds=20, clock=lambda: float(next(ticks)))
    assert len(taken) == 7  # three ticks a round


def test_ratios_are_those_of_one_round() -> None:
    """A machine that slows to a tenth half-way does not touch the ratio."""
    now, speed = 0.0, 1.0

    def runner(seconds: float) -> Callable[[], None]:
        def run() -> None:
            nonlocal now
            now += seconds * speed

        return run

    def clock() -> float:
        nonlocal speed
        speed = 10.0 if now > 15 else 1.0
        return now

    first, second = timed(["a", "b"], [runner(1.0), runner(0.5)], repeats=20, clock=clock)
    assert (first.ratio, first.rounds) == (1.0, 20)
    assert (second.ratio, second.ratio_low, second.ratio_high) == (0.5, 0.5, 0.5)
    assert second.low_ms < second.high_ms  # the times themselves do move


def test_a_larger_network_is_slower(folder: Path) -> None:
    found = bench(["narrow.onnx", "wide.onnx"], threads=(1, 2), batch=32, repeats=15)
    assert [(one.path, one.threads) for one in found] == [
        *(("narrow.onnx", 1), ("wide.onnx", 1)),
        *(("narrow.onnx", 2), ("wide.onnx", 2)),
    ]
    assert found[1].ratio > 2  # of 32 times the work
    assert found[1].ratio == found[3].ratio == pytest.approx(32, rel=0.1)
    assert all(one.low_ms <= one.median_ms <= one.high_ms for one in found)


# ---- what a file is ------------------------------------------------------------------------------


def test_facts(folder: Path) -> None:
    feeds = common_feeds(["narrow.onnx", "wide.onnx"], batch=2)
    narrow, wide = (facts(name, feeds) for name in ("narrow.onnx", "wide.onnx"))
    assert narrow.bytes == (folder / "narrow.onnx").stat().st_size
    assert (narrow.nodes, narrow.parameters, narrow.macs) == (3, 2 * 256 * 64, 2 * 2 * 256 * 64)
    assert wide.macs == 32 * narrow.macs
    assert narrow.peak_bytes is not None
    assert wide.peak_bytes is not None
    assert wide.peak_bytes > narrow.peak_bytes > 0


def test_weights_in_a_file_beside_count(folder: Path) -> None:
    onnx.save(dense(64), "beside.onnx", save_as_external_data=True, location="w.bin")
    feeds = common_feeds(["beside.onnx"])
    assert facts("beside.onnx", feeds).bytes > 2 * 256 * 64 * 4
    assert facts("beside.onnx", feeds).parameters == 2 * 256 * 64
    assert bench(["beside.onnx", "narrow.onnx"], repeats=1)[0].median_ms > 0


def weight(*dims: int) -> Any:
    return np.zeros(dims, np.float32)


IMAGE = {"x": (TensorProto.FLOAT, ["b", 4, 8, 8])}
COUNTED: dict[str, tuple[onnx.ModelProto, int]] = {
    "conv": (
        model([helper.make_node("Conv", ["x", "w"], ["y"])], IMAGE, {"w": weight(6, 4, 3, 3)}),
        2 * 6 * 6 * 6 * 4 * 9,
    ),
    "grouped": (
        model(
            [helper.make_node("Conv", ["x", "w"], ["y"], group=4)], IMAGE, {"w": weight(4, 1, 3, 3)}
        ),
        2 * 4 * 6 * 6 * 9,
    ),
    "transposed": (
        model(
            [helper.make_node("ConvTranspose", ["x", "w"], ["y"])], IMAGE, {"w": weight(4, 6, 2, 2)}
        ),
        2 * 4 * 8 * 8 * 6 * 4,
    ),
    "gemm": (
        model(
            [
                helper.make_node("Flatten", ["x"], ["f"]),
                helper.make_node("Gemm", ["f", "w"], ["y"], transB=1),
            ],
            IMAGE,
            {"w": weight(5, 256)},
        ),
        2 * 256 * 5,
    ),
    "einsum": (
        model(
            [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bchw,cd->bdhw")],
            IMAGE,
            {"w": weight(4, 3)},
        ),
        2 * 4 * 8 * 8 * 3,
    ),
    "after a reshape by sizes": (
        model(
            [
                helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
                helper.make_node("Concat", ["s", "rest"], ["to"], axis=0),
                helper.make_node("Reshape", ["x", "to"], ["r"]),
                helper.make_node("MatMul", ["r", "w"], ["y"]),
            ],
            IMAGE,
            {"w": weight(64, 3), "rest": np.asarray([4, 64])},
        ),
        2 * 4 * 64 * 3,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_macs(name: str) -> None:
    built, expected = COUNTED[name]
    found = costs(built, {"x": (2, 4, 8, 8)})
    assert (found.macs, found.unknown) == (expected, 0)
    assert found.parameters == sum(
        int(np.prod(w.dims)) for w in built.graph.initializer if w.name == "w"
    )


def test_what_cannot_be_counted_is_said() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["w", "f"], ["y"]),
    ]
    found = costs(model(nodes, IMAGE, {"w": weight(3, 4)}), {"x": (2, 4, 8, 8)})
    assert (found.macs, found.unknown) == (0, 1)


def test_inputs_are_of_the_types_of_the_graph() -> None:
    kinds = {"f": TensorProto.FLOAT16, "i": TensorProto.INT32, "b": TensorProto.BOOL}
    nodes = [helper.make_node("Cast", ["f"], ["y"], to=TensorProto.FLOAT)]
    built = model(nodes, {name: (kind, ["n", 9]) for name, kind in kinds.items()})
    feeds = generate(built, "m", batch=3)
    assert {n: (str(a.dtype), a.shape) for n, a in feeds.items()} == {
        "f": ("float16", (3, 9)),
        "i": ("int32", (3, 9)),
        "b": ("bool", (3, 9)),
    }
    assert set(np.unique(feeds["i"])) == {0, 1}


# ---- the command, and all that is wrong ----------------------------------------------------------


call = partial(command.call, "bench")


def test_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = call("narrow.onnx", "wide.onnx", "--threads", "1,2", "--repeats", "3", "--batch", "2")
    assert shown.exit_code == 0
    assert "inputs x=2x256" in shown.output
    assert "process of its own" in " ".join(shown.output.split())
    assert shown.output.count("wide.onnx") == 3
    assert f"{2 * 256 * 2048:,}" in shown.output


def test_json(folder: Path) -> None:
    told = json.loads(
        call("narrow.onnx", "fixed.onnx", "--repeats", "2", "--batch", "4", "--json").output
    )
    assert told["inputs"] == {"x": [4, 256]}
    assert [one["macs"] for one in told["files"]] == [4 * 2 * 256 * 64] * 2
    assert {one["threads"] for one in told["timings"]} >= {1}
    assert told["timings"][0]["ratio"] == 1.0


def test_sizes_can_be_given(folder: Path) -> None:
    told = json.loads(call("loose.onnx", "--repeats", "1", "--shape", "ids=2,7", "--json").output)
    assert told["inputs"] == {"ids": [2, 7]}


WRONG: dict[str, tuple[tuple[str, ...], type[FxpruneError], str]] = {
    "no ONNX file": (("junk.onnx",), FileError, "junk.onnx: not an ONNX file"),
    "an empty file": (("empty.onnx",), FileError, "empty.onnx: not an ONNX file"),
    "no file": (("no.onnx",), FileError, "no.onnx: cannot be read: No such file"),
    "an unknown operator": (("wrong.onnx",), FileError, "wrong.onnx: ONNX Runtime cannot load"),
    "other inputs": (
        ("narrow.onnx", "renamed.onnx"),
        InputError,
        "renamed.onnx: its inputs are not those of narrow.onnx: x is missing, there it is float32",
    ),
    "other sizes": (
        ("narrow.onnx", "fixed.onnx"),
        InputError,
        r"fixed.onnx: .* x is float32\[4,256\], there it is float32\[1,256\]",
    ),
    "a fixed batch": (("fixed.onnx", "--batch", "2"), InputError, "fixed leading axis of 4"),
    "free sizes": (
        ("loose.onnx",),
        InputError,
        r"input ids: axis 1 \(sequence\) .* --shape ids=1,128",
    ),
    "an unknown input": (("narrow.onnx", "--shape", "q=1"), InputError, "--shape q: .* it has x"),
    "a shape that does not fit": (
        ("narrow.onnx", "--shape", "x=1,2"),
        InputError,
        "--shape x: narrow.onnx wants batch,256, not 1,2",
    ),
    "no shape": (("narrow.onnx", "--shape", "x=a"), InputError, "write it as name=1,3,224,224"),
    "no threads": (("narrow.onnx", "--threads", "0"), InputError, "list of positive numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str, folder: Path) -> None:
    arguments, error, said = WRONG[name]
    refuses(("bench", *arguments), error, said)


def test_read_leaves_weights_beside(folder: Path) -> None:
    onnx.save(dense(64), "beside.onnx", save_as_external_data=True, location="w.bin")
    (folder / "w.bin").unlink()
    read("beside.onnx", weights=False)
    with pytest.raises(FileError, match=r"beside\.onnx"):
        read("beside.onnx")
