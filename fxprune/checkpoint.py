"""Write down how far a schedule has come, so that one that was killed goes on where it was."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fxprune.errors import CheckpointError
from fxprune.files import atomic_write
from fxprune.report import Step

FORMAT = "fxprune-checkpoint-1"


@dataclass
class Saved:
    """Hold a moment of a schedule: after how many steps and fine-tunings, and everything learned.

    `alive[k]` is the choice of step `k`, bool `[variables]` of the model as it was before it.
    """

    step: int = 0
    tunings: int = 0
    alive: list[torch.Tensor] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    learned: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[Step] = field(default_factory=list)


class Checkpoint:
    """Keep one schedule's file in a folder: `schedule.safetensors`, and the optimizer's beside it.

    `belongs` says of which model and specification; another's file is refused.
    """

    def __init__(self, folder: Path, belongs: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {folder}: {error.strerror}") from None
        self._path = folder / "schedule.safetensors"
        self._optimizer = folder / "optimizer.pt"
        self._belongs = belongs

    def save(self, saved: Saved, optimizer: torch.optim.Optimizer | None) -> None:
        """Write a moment, replacing the one before in one piece."""
        state = {
            "step": saved.step,
            "tunings": saved.tunings,
            "history": [asdict(step) for step in saved.history],
            "random": random.getstate(),
            "numpy": [
                part.tolist() if isinstance(part, np.ndarray) else part
                for part in np.random.get_state(legacy=True)
            ],
        }
        tensors = {f"alive:{k}": one.to(torch.uint8) for k, one in enumerate(saved.alive)}
        tensors |= {f"weight:{name}": one.detach().clone() for name, one in saved.weights.items()}
        tensors |= {f"learned:{name}": one.clone() for name, one in saved.learned.items()}
        tensors["random"] = torch.get_rng_state()
        tensors = {name: one.contiguous() for name, one in tensors.items()}
        if optimizer is not None:
            with atomic_write(self._optimizer) as path:
                torch.save({"step": saved.tunings, "state": optimizer.state_dict()}, path)
        metadata = {"format": FORMAT, "belongs": self._belongs, "state": json.dumps(state)}
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
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{self._path}: cannot be read: {error}; delete it to start anew"
            ) from None
        if metadata.get("format") != FORMAT or metadata.get("belongs") != self._belongs:
            raise CheckpointError(
                f"{self._path}: is of another model, specification or version of fxprune; name "
                "another folder, or delete it to start anew"
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
        )

    def load_optimizer(self, optimizer: torch.optim.Optimizer, tunings: int) -> None:
        """Put back the state of the optimizer as it was at the moment loaded.

        Raises CheckpointError where there is none of that moment.
        """
        data: Any = None
        if self._optimizer.exists():
            data = torch.load(self._optimizer, weights_only=True)
        if not isinstance(data, dict) or data.get("step") != tunings:
            raise CheckpointError(
                f"{self._optimizer}: holds no state of the optimizer for this checkpoint; delete "
                "the folder to start anew"
            )
        optimizer.load_state_dict(data["state"])


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
