"""Damaged files: whatever is cut off or turned over, one of our own errors, and never another."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxprune
from fxprune.cli.callback_files import read_batches
from fxprune.cli.examples import read_examples
from fxprune.errors import FileError, FxpruneError, SpecErrors
from fxprune.files import archive
from fxprune.latency.kernels import Store
from fxprune.loop.checkpoint import Checkpoint, Saved
from fxprune.loop.trials import Trials
from fxprune.onnx.reading import read as read_onnx
from fxprune.report import Report, Step
from fxprune.spec import Spec
from tests.files.sabotage import read, write

Use = Callable[[Path], Any]


@dataclass(frozen=True)
class Kind:
    """Say how a file comes about, and how it is read; `exact` means that any change is noticed."""

    name: str
    made: Callable[[Path], Any]
    used: Use
    exact: bool = False


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


@cache
def slim() -> Any:
    spec = {"target": {"kind": "block", "block": [1, 1]}, "objective": {"ratio": 0.5}}
    return fxprune.prune(network(), spec, (torch.randn(2, 6),))


def checkpoint(path: Path) -> None:
    weights = network().state_dict()
    optimizer = torch.optim.Adam(network().parameters())
    saved = Saved(1, 2, [torch.ones(3, dtype=torch.bool)], weights, {}, [Step(1, 0.5, 0.4)])
    Checkpoint(path.parent, "it").save(saved, optimizer)


def resumed(path: Path) -> None:
    held = Checkpoint(path.parent, "it")
    saved = held.load()
    assert saved is not None
    held.load_optimizer(torch.optim.Adam(network().parameters()), saved)


def kernels(path: Path) -> None:
    store = Store.open(path, 1)
    for width in (8, 16):
        store.put("family", "Conv", (width, 3), 1.25 * width)
    store.save()


def scores(path: Path) -> None:
    trials = Trials(lambda module: 0.5, path)
    for key in ("a", "b", "c"):
        trials._write(key * 8, 0.5)


def pickled(path: Path) -> None:
    torch.save((torch.randn(2, 6), {"a": torch.ones(3)}), path)


def exported(path: Path) -> None:
    whole: Any = fxprune.run(network(), "restore", (torch.randn(2, 6),))
    fxprune.export_onnx(whole, path)


SPEC = {"target": "hidden", "schedule": {"name": "agp", "steps": 3}, "objective": {"macs": 0.5}}
TOML = 'target = "hidden"\n[schedule]\nname = "agp"\nsteps = 3\n[objective]\nmacs = 0.5\n'
YAML = "target: hidden\nschedule: {name: agp, steps: 3}\nobjective:\n  macs: 0.5\n"
KINDS = [
    Kind("slim.pt2", lambda path: fxprune.save(slim(), path), fxprune.load),
    Kind("trusted.pt2", lambda path: fxprune.save(slim(), path), lambda path: trusted(path)),
    Kind("pickled.pt", lambda path: torch.save(network(), path), lambda path: unpickled(path)),
    Kind("schedule.safetensors", checkpoint, resumed, exact=True),
    Kind("kernels.json", kernels, lambda path: Store.open(path, 1)),
    Kind("scores.jsonl", scores, lambda path: Trials(lambda module: 0.5, path)),
    Kind("plan.json", lambda path: slim().plan.save(path), fxprune.Plan.load),
    Kind(
        "plan.safetensors",
        lambda path: slim().plan.save(path.with_suffix(".json")),
        lambda path: fxprune.Plan.load(path.with_suffix(".json")),
        exact=True,
    ),
    Kind("example.pt", pickled, read_examples),
    Kind("example.npy", lambda path: np.save(path, np.ones((2, 3))), read_examples),
    Kind("example.npz", lambda path: np.savez(path, a=np.ones((2, 3))), read_examples),
    Kind(
        "batches.safetensors",
        lambda path: save_file({"a": torch.ones(4, 2), "b": torch.ones(4)}, path),
        lambda path: read_batches(path, 2),
    ),
    Kind("slim.onnx", exported, read_onnx),
    Kind("spec.toml", lambda path: path.write_text(TOML), Spec.of),
    Kind("spec.yaml", lambda path: path.write_text(YAML), Spec.of),
    Kind("spec.json", lambda path: path.write_text(json.dumps(SPEC)), Spec.of),
]


def trusted(path: Path) -> Any:
    return archive.load_exported(path, trust=True)


def unpickled(path: Path) -> Any:
    return archive.load_pickled_module(path, trust=True)


def cut(data: bytes, count: int, chance: random.Random) -> Iterator[bytes]:
    """Yield the beginnings of a file: none, one byte less, and others."""
    ends = {0, 1, len(data) - 1, *(chance.randrange(len(data)) for _ in range(count))}
    yield from (data[:end] for end in sorted(ends))


def turned(data: bytes, count: int, chance: random.Random) -> Iterator[bytes]:
    """Yield a file with one byte turned over, or some of them zero."""
    for number in range(count):
        place, changed = chance.randrange(len(data)), bytearray(data)
        if number % 4:
            changed[place] ^= 1 << chance.randrange(8)
        else:
            changed[place : place + 16] = bytes(len(changed[place : place + 16]))
        if changed != data:
            yield bytes(changed)


def damage(kind: Kind, folder: Path, count: int) -> None:
    """Read a file damaged in many places; raise what is not one of our own errors."""
    path, chance = folder / kind.name, random.Random(0)
    kind.made(path)
    whole = path.read_bytes()
    kind.used(path)
    for data in (*cut(whole, count, chance), *turned(whole, count, chance)):
        path.write_bytes(data)
        said = refusal(kind, path)
        assert "\n" not in said
        assert said or not kind.exact, "the damage was not noticed"


def refusal(kind: Kind, path: Path) -> str:
    try:
        kind.used(path)
    except FxpruneError as error:
        return " ".join(error.lines) if isinstance(error, SpecErrors) else str(error)
    return ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damage_is_one_of_our_errors(kind: Kind, tmp_path: Path) -> None:
    damage(kind, tmp_path, 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_much_damage_is_one_of_our_errors(kind: Kind, tmp_path: Path) -> None:
    damage(kind, tmp_path, 300)


def test_no_number_changes_unnoticed(tmp_path: Path) -> None:
    """torch's own reader takes a weight of which a bit was turned over for the weight."""
    path, chance = tmp_path / "slim.pt2", random.Random(0)
    fxprune.save(slim(), path)
    x, data = torch.randn(3, 6), path.read_bytes()
    for changed in turned(data, 40, chance):
        path.write_bytes(changed)
        try:
            loaded = fxprune.load(path)
        except FileError:
            continue
        assert torch.equal(loaded(x), slim()(x))
        assert (loaded.plan, loaded.report) == (slim().plan, slim().report)


EXTRAS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "half": lambda text: text[: len(text) // 2],
    "no object": lambda text: b"[]",
    "an empty object": lambda text: b"{}",
    "a number": lambda text: b"3",
    "deep": lambda text: b"[" * 100_000,
    "other names": lambda text: text.replace(b'"t', b'"u'),
    "texts for numbers": lambda text: text.replace(b": 1", b': "x1').replace(b"e,", b'e",'),
    "zeros": lambda text: text.replace(b"A", b"B"),
}
RECORDS = ("fxprune.json", "fxprune.plan.json", "fxprune.plan.safetensors", "fxprune.report.json")


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("how", EXTRAS)
def test_extras_that_are_damaged(record: str, how: str, tmp_path: Path) -> None:
    fxprune.save(slim(), tmp_path / "slim.pt2")
    records = read(tmp_path / "slim.pt2")
    records[f"extra/{record}"] = EXTRAS[how](text := records[f"extra/{record}"])
    path = write(records, tmp_path / "x.pt2")
    if records[f"extra/{record}"] == text:
        return
    with pytest.raises(FileError, match=r"x\.pt2: what fxprune wrote beside the program is damag"):
        fxprune.load(path)


def test_extras_that_do_not_fit(tmp_path: Path) -> None:
    fxprune.save(slim(), tmp_path / "slim.pt2")
    records = read(tmp_path / "slim.pt2")
    for tied in ([["absent", "0.weight"]], [["0.weight", "2.bias"]], [[]], [3], 3):
        facts = {"format": 1, "training": False, "batch": 2, "tied": tied}
        changed = {**records, "extra/fxprune.json": json.dumps(facts).encode()}
        with pytest.raises(FileError, match="beside the program is damaged"):
            fxprune.load(write(changed, tmp_path / "x.pt2"))
    for name in RECORDS[1:3]:
        changed = {key: data for key, data in records.items() if key != f"extra/{name}"}
        if name == "fxprune.plan.safetensors":
            with pytest.raises(FileError, match="beside the program is damaged"):
                fxprune.load(write(changed, tmp_path / "x.pt2"))


def test_a_report_of_other_types_is_refused() -> None:
    text = slim().report.to_json()
    assert Report.from_json(text) == slim().report
    for wrong in (text.replace('"macs_before": ', '"macs_before": "x'), "[]", "", "{}"):
        with pytest.raises(FileError, match="not one that fxprune wrote"):
            Report.from_json(wrong)
