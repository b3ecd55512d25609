"""Write down how far a schedule has come, so that one that was killed can resume."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file

from fxprune import distributed
from fxprune.errors import CheckpointError, first_line
from fxprune.files import atomic_write
from fxprune.files.digest import digest
from fxprune.files.storage import compacted
from fxprune.report import Step, Tuning

FORMAT = "fxprune-checkpoint-3"
NAME = "schedule.safetensors"


@dataclass
class Saved:
    """Hold a moment of a schedule: after how many steps and fine-tunings, and everything learned.

    `alive[k]` is the choice of step `k`, bool `[variables]` of the model as it was before it;
    `optimizer` is the state of the optimizer as `torch.save` writes it, where there is one.
    """

    step: int = 0
    tunings: int = 0
    alive: list[torch.Tensor] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    learned: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[Step] = field(default_factory=list)
    optimizer: torch.Tensor | None = None
    tuned: list[Tuning] = field(default_factory=list)


class Checkpoint:
    """Keep one schedule's file in a folder: everything in it, so that all is of one moment.

    `belongs` says of which model and specification; another's file is refused.
    """

    def __init__(self, folder: Path, belongs: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {folder}: {error.strerror}") from None
        self._path = folder / NAME
        self._belongs = belongs
        if distributed.first():
            for left in folder.glob(f".{self._path.stem}.*{self._path.suffix}"):
                with suppress(OSError):  # half-written by a process that was killed
                    left.unlink()

    def save(self, saved: Saved, optimizer: torch.optim.Optimizer | None) -> None:
        """Write a moment, replacing the one before in one piece; raises FileError."""
        state = json.dumps(
            {
                "step": saved.step,
                "tunings": saved.tunings,
                "history": [asdict(step) for step in saved.history],
                "tuned": [asdict(tuning) for tuning in saved.tuned],
                "random": random.getstate(),
                "numpy": [
                    part.tolist() if isinstance(part, np.ndarray) else part
                    for part in np.random.get_state(legacy=True)
                ],
            }
        )
        tensors = {f"alive:{k}": one.to(torch.uint8) for k, one in enumerate(saved.alive)}
        tensors |= {f"weight:{name}": one.detach().clone() for name, one in saved.weights.items()}
        tensors |= {f"learned:{name}": one.clone() for name, one in saved.learned.items()}
        tensors["random"] = torch.get_rng_state()
        if optimizer is not None:
            tensors["optimizer"] = _packed(optimizer)
        tensors = {name: one.contiguous() for name, one in tensors.items()}
        metadata = {"format": FORMAT, "belongs": self._belongs, "state": state}
        metadata["digest"] = digest(tensors, state)
        with atomic_write(self._path) as path:
            save_file(tensors, path, metadata)

    def load(self) -> Saved | None:
        """Return the moment in the file, and set the random generators to it; None without a file.

        Raises CheckpointError where the file is another's, or damaged.
        """
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, "pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
        except Exception as error:  # the reader raises what a damaged part makes it stumble on
            raise CheckpointError(
                f"{self._path}: cannot be read: {first_line(error)}; delete it to start again"
            ) from None
        if metadata.get("format") != FORMAT or metadata.get("belongs") != self._belongs:
            raise CheckpointError(
                f"{self._path}: is of another model, specification or version of fxprune; name "
                "another folder, or delete it to start again"
            )
        if metadata.get("digest") != digest(tensors, metadata.get("state", "")):
            raise CheckpointError(
                f"{self._path}: is damaged: what is in it is not what was written; delete it to "
                "start again"
            )
        state = json.loads(metadata["state"])
        _restore_random(state, tensors.pop("random"))
        return Saved(
            state["step"],
            state["tunings"],
            [tensors[f"alive:{k}"].bool() for k in range(_count(tensors))],
            _under("weight:", tensors),
            _under("learned:", tensors),
            [Step(**one) for one in state["history"]],
            tensors.get("optimizer"),
            TypeAdapter(list[Tuning]).validate_python(state["tuned"]),
        )

    def load_optimizer(self, optimizer: torch.optim.Optimizer, saved: Saved) -> None:
        """Put back the state of the optimizer as it was at the moment loaded.

        Raises CheckpointError where there is none of an optimizer of its kind and parameters.
        """
        if saved.optimizer is None:
            raise CheckpointError(
                f"{self._path}: holds no state of the optimizer; leave the optimizer out as then, "
                "or delete the file to start again"
            )
        kind = type(optimizer).__qualname__
        try:
            packed = io.BytesIO(saved.optimizer.numpy().tobytes())
            data = torch.load(packed, weights_only=True)
            if data["kind"] != kind:
                raise ValueError(f"it is the state of {data['kind']}, and this one is {kind}")
            optimizer.load_state_dict(data["state"])
        except Exception as error:  # an optimizer takes what it likes, and says so as it likes
            raise CheckpointError(
                f"{self._path}: does not fit the optimizer: {first_line(error)}; give the same one "
                "again, or delete the file to start again"
            ) from error


def _packed(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Return the kind and state of an optimizer as bytes."""
    buffer = io.BytesIO()
    kind, state = type(optimizer).__qualname__, compacted(optimizer.state_dict())
    torch.save({"kind": kind, "state": state}, buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _count(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(name.startswith("alive:") for name in tensors)


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _restore_random(state: Mapping[str, Any], torch_state: torch.Tensor) -> None:
    torch.set_rng_state(torch_state)
    version, internal, gauss = state["random"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
