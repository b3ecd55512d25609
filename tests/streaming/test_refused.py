"""What cannot be pruned tensor by tensor is refused in a line, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import FileError, FxpruneError, InputError, SpecError
from tests.support.checkpoints import CONFIG, IDS, SPEC, build, decoder, read, stored, written
from tests.support.command import Done

SECOND = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


def shorter(folder: Path) -> None:
    data = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(data[:-100])


def noise(folder: Path) -> None:
    (folder / SECOND).write_bytes(b"no header at all" * 100)


def index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        data = json.loads((folder / INDEX).read_text())
        change(data)
        (folder / INDEX).write_text(json.dumps(data))

    return changed


def elsewhere(data: dict[str, Any]) -> None:
    data["weight_map"]["embed.weight"] = "../model-00001-of-00003.safetensors"


def more(data: dict[str, Any]) -> None:
    data["weight_map"]["layers.9.q.weight"] = SECOND


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no shard": (lambda at: (at / SECOND).unlink(), f"{SECOND}: is missing; fetch it again"),
    "cut": (shorter, f"{SECOND}: is damaged: "),
    "noise": (noise, f"{SECOND}: is damaged: "),
    "no json": (lambda at: (at / INDEX).write_text("{"), f"{INDEX}: is damaged: "),
    "a list": (lambda at: (at / INDEX).write_text("[]"), f"{INDEX}: a table is needed, not list"),
    "no map": (index(lambda data: data.pop("weight_map")), "its weight_map is missing or wrong"),
    "a path": (index(elsewhere), "its weight_map is missing or wrong"),
    "not there": (index(more), f"{SECOND}: lacks layers.9.q.weight, which {INDEX} says is there"),
    "two": (lambda at: (at / INDEX).unlink(), "which of 3 files is meant?"),
    "config": (lambda at: (at / "config.json").unlink(), "config.json: cannot be read: No such"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path: Path, name: str) -> None:
    source = written(tmp_path / "whole", stored(decoder()))
    break_it, said = FOLDERS[name]
    break_it(source)
    with pytest.raises(FileError) as told:
        fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


LESS = {"objective": {"params": 0.75}}
SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "batches": ({"metric": "obs"}, "metric: obs needs batches, and a checkpoint is pruned without"),
    "selection": ({"target": {"metric": "taylor-fo"}}, "metric: taylor-fo needs batches and loss"),
    "evaluator": ({"allocation": "sensitivity"}, "allocation: sensitivity asks an evaluator"),
    "latency": ({"objective": {"latency": 0.5}}, "objective: latency is measured, and a"),
    "steps": ({"schedule": {"name": "agp", "steps": 3}}, "schedule: more than one step is for"),
    "repair": ({"repair": "means"}, "repair: means changes weights, and a checkpoint is"),
    "masks": (
        {"target": "block", "objective": {"ratio": 0.5}},
        "are not written into checkpoints; choose targets of units",
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_specifications(tmp_path: Path, name: str) -> None:
    source = written(tmp_path / "whole", stored(decoder()))
    change, said = SPECS[name]
    with pytest.raises(SpecError) as told:
        fxprune.prune_checkpoint(source, {**LESS, **change}, tmp_path / "half", build, IDS)
    assert said in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def other(config: object) -> nn.Module:
    raise ZeroDivisionError("no heads")


MODELS: dict[str, tuple[Any, str]] = {
    "layers": (lambda: build({"layers": 3, "tied": True}), "lacks layers.2."),
    "fewer": (lambda: build({"layers": 1, "tied": True}), "which the model does not have"),
    "weights": (None, "model: it has weights of its own; build it under torch.device"),
    "raises": (other, "model: other raised ZeroDivisionError: no heads"),
    "nothing": (lambda: None, "must return a torch.nn.Module, not NoneType"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(tmp_path: Path, name: str) -> None:
    source = written(tmp_path / "whole", stored(decoder()))
    model, said = MODELS[name]
    model = decoder() if model is None else model
    with pytest.raises((InputError, FileError)) as told:
        fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", model, IDS)
    assert said in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_another_shape(tmp_path: Path) -> None:
    tensors = stored(decoder())
    tensors["norm.weight"] = torch.ones(15)
    source = written(tmp_path / "whole", tensors, 1)
    with pytest.raises(FileError, match=r"norm.weight is of \(15,\), and the model's of \(16,\)"):
        fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    tensors = stored(decoder())
    tensors["layers.1.up.weight"][3, 5] = float("nan")
    source = written(tmp_path / "whole", tensors)
    with pytest.raises(InputError, match=r"layers.1.up.weight\[3, 5\] is nan"):
        fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


class Normed(nn.Module):
    """A weight divided by its norm, whose numbers change with what leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.second.weight / self.second.weight.norm(dim=1, keepdim=True)
        return nn.functional.linear(torch.relu(self.first(x)), weight)


def test_weights_that_would_change(tmp_path: Path) -> None:
    source = written(tmp_path / "whole", stored(Normed()), 1)
    spec = {"objective": {"ratio": 0.5}}
    with pytest.raises(InputError, match="computes a weight of what is removed as well"):
        fxprune.prune_checkpoint(source, spec, tmp_path / "half", Normed, torch.zeros(2, 8))


def test_a_folder_that_is_there(tmp_path: Path) -> None:
    source = written(tmp_path / "whole", stored(decoder()))
    (tmp_path / "half").mkdir()
    with pytest.raises(FileError, match="half: is there already; name another folder"):
        fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", build, IDS)
    with pytest.raises(FileError, match="there is no folder"):
        fxprune.prune_checkpoint(source, SPEC, tmp_path / "no" / "half", build, IDS)


def test_prune_itself_refuses_models_without_weights() -> None:
    with torch.device("meta"):
        model = build(CONFIG)
    with pytest.raises(FxpruneError, match="pruned together with the files of its weights"):
        fxprune.prune(model, SPEC, IDS.to("meta"))


CONFIGS = {
    "none": ({}, "names no class under architectures; give the function that builds the model"),
    "unknown": ({"architectures": ["Nothing"]}, "model: Nothing of config.json needs transformers"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, said = CONFIGS[name]
    source = written(tmp_path / "whole", stored(decoder()), 2, config)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)  # as where it is not there
    with pytest.raises((FileError, InputError)) as told:
        fxprune.prune_checkpoint(source, SPEC, tmp_path / "half", None, IDS)
    assert said in str(told.value)


# ---- on the command line -------------------------------------------------------------------------

WORDS = ("--params", "0.75", "--target", "hidden", "--input-shape", "2,8:int64")


def test_the_command(
    tmp_path: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "whole", stored(decoder()))
    builder = "tests.support.checkpoints:build"
    done = command("prune-checkpoint", "whole", *WORDS, "--model", builder, "-o", "half", "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    after = sum(tensor.numel() for tensor in read(tmp_path / "half").values())
    assert (told["wrote"], told["report"]["parameters_after"]) == ("half", after)


COMMANDS = {
    "no inputs": (WORDS[:4], "whole: example inputs are needed: give --input-shape or --example"),
    "no colon": ((*WORDS, "--model", "net"), '--model: "net" is not module:function'),
    "no module": ((*WORDS, "--model", "nothing:build"), "--model: nothing raised ModuleNotFound"),
    "no file": ((*WORDS, "--model", "no.py:build"), "no.py: there is no such file"),
    "no function": ((*WORDS, "--model", "json:lods"), 'did you mean "loads"?'),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_commands(
    tmp_path: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "whole", stored(decoder()))
    words, said = COMMANDS[name]
    done = command("prune-checkpoint", "whole", *words, "-o", "half")
    assert done.status == 2
    assert said in done.err
    assert done.err.count("\n") == 1
