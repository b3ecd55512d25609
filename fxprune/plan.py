"""A plan: which indices of which tensors stay. It can be saved, read and applied again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fxprune.errors import FileError
from fxprune.files import atomic_write


@dataclass(frozen=True)
class TargetPlan:
    """Say what a plan does to one target."""

    name: str
    kind: str
    units: int
    kept: int
    exact: bool
    why: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """Hold the kept indices of every parameter and buffer that the model reads.

    `kept[name][d]` are the kept indices of axis `d` of tensor `name`, int64, ascending. `masks`
    say of some tensors which entries of what is kept are not zero, bool.
    """

    kept: Mapping[str, tuple[torch.Tensor, ...]]
    targets: tuple[TargetPlan, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", MappingProxyType(dict(self.masks)))
        object.__setattr__(self, "kept", MappingProxyType(dict(self.kept)))
        object.__setattr__(self, "spec", MappingProxyType(dict(self.spec)))

    def __reduce__(self) -> Any:
        return Plan, (dict(self.kept), self.targets, dict(self.spec), dict(self.masks))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        mine, theirs = self.tensors(), other.tensors()
        same = self.to_json() == other.to_json()
        return same and all(torch.equal(index, theirs[name]) for name, index in mine.items())

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """Return everything but the indices as JSON."""
        targets = [vars(target) for target in self.targets]
        axes = {name: len(indices) for name, indices in self.kept.items()}
        return json.dumps(
            {"format": "fxprune-plan-1", "spec": dict(self.spec), "targets": targets, "axes": axes},
            indent=1,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return kept indices as flat tensors `name:axis`, and masks as `name:mask`."""
        masks = {f"{name}:mask": mask.clone() for name, mask in self.masks.items()}
        return masks | {
            f"{name}:{d}": index.clone()  # tensors that the model ties have the same indices
            for name, indices in self.kept.items()
            for d, index in enumerate(indices)
        }

    @classmethod
    def of(cls, text: str, tensors: Mapping[str, torch.Tensor]) -> Plan:
        """Return the plan that `to_json` and `tensors` described."""
        data = json.loads(text)
        kept = {
            name: tuple(tensors[f"{name}:{d}"] for d in range(axes))
            for name, axes in data["axes"].items()
        }
        masks = {
            name.removesuffix(":mask"): tensor
            for name, tensor in tensors.items()
            if name.endswith(":mask")
        }
        plans = tuple(TargetPlan(**one) for one in data["targets"])
        return cls(kept, plans, data["spec"], masks)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `path` (JSON) and beside it the indices, as `.safetensors`."""
        place = Path(path)
        if place.suffix == ".safetensors":
            raise FileError(f"{place}: the indices go there; name the plan itself .json")
        with atomic_write(place.with_suffix(".safetensors")) as binary:
            save_file(self.tensors(), binary)
        with atomic_write(place) as text:
            text.write_text(self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan that `save` wrote; raises FileError where it is not one."""
        place = Path(path)
        try:
            return cls.of(place.read_text(), load_file(place.with_suffix(".safetensors")))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise FileError(f"{place}: not a plan that fxprune wrote: {error}") from error
