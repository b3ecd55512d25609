"""A plan: which indices of which tensors are kept. It can be saved, read and applied again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from fxprune.errors import FileError, root_cause
from fxprune.files import atomic_write
from fxprune.files.digest import digest
from fxprune.files.storage import compacted
from fxprune.files.tables import as_html


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
    say of some tensors which entries of what is kept are not zero, bool. `inputs` say of what
    shapes and types the example inputs were. `settings` are the integers that the configuration of
    the original had where a model narrowed into its own class has others, by their dotted names.
    """

    kept: Mapping[str, tuple[torch.Tensor, ...]]
    targets: tuple[TargetPlan, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Any] | None = None
    settings: Mapping[str, int | None] = field(default_factory=dict)

    state: ClassVar[str] = "planned"

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", MappingProxyType(dict(self.masks)))
        object.__setattr__(self, "kept", MappingProxyType(dict(self.kept)))
        object.__setattr__(self, "spec", MappingProxyType(dict(self.spec)))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    def __reduce__(self) -> Any:
        kept, masks = compacted(dict(self.kept)), compacted(dict(self.masks))
        return Plan, (kept, self.targets, dict(self.spec), masks, self.inputs, dict(self.settings))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        mine, theirs = self.tensors(), other.tensors()
        same = self.to_json() == other.to_json()
        return same and all(torch.equal(index, theirs[name]) for name, index in mine.items())

    def __hash__(self) -> int:
        return hash(self.to_json())

    def _repr_html_(self) -> str:
        headings = ("target", "kind", "units", "kept")
        rows = [(one.name, one.kind, str(one.units), str(one.kept)) for one in self.targets]
        return as_html(headings, rows, ("units", "kept"))

    def to_json(self) -> str:
        """Return everything but the indices as JSON, and a digest of them."""
        data = {
            "format": "fxprune-plan-1",
            "spec": dict(self.spec),
            "targets": [vars(target) for target in self.targets],
            "axes": {name: len(indices) for name, indices in self.kept.items()},
            "digest": digest(self.tensors()),
            "inputs": self.inputs,
        }
        if self.settings:
            data["settings"] = dict(self.settings)
        return json.dumps(data, indent=1)

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
        """Return the plan that `to_json` and `tensors` described.

        Raises FileError where they do not belong together, or are none.
        """
        try:
            data = json.loads(text)
            kept = {
                name: tuple(tensors[f"{name}:{d}"] for d in range(axes))
                for name, axes in data["axes"].items()
            }
            plans = TypeAdapter(tuple[TargetPlan, ...]).validate_python(data["targets"])
            spec, written = dict(data["spec"]), data.get("digest")
            inputs, settings = data.get("inputs"), dict(data.get("settings") or {})
        except Exception as error:  # a text that is none of ours may be anything
            raise FileError(f"not a plan that fxprune wrote: {root_cause(error, 200)}") from error
        if written not in (None, digest(tensors)):  # files of earlier versions have none
            raise FileError("not a plan that fxprune wrote: its indices are others")
        masks = {
            name.removesuffix(":mask"): tensor
            for name, tensor in tensors.items()
            if name.endswith(":mask")
        }
        return cls(kept, plans, spec, masks, inputs, settings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `path` (JSON) and beside it the indices, as `.safetensors`; raises FileError."""
        place = Path(path)
        if place.suffix == ".safetensors":
            raise FileError(f"{place}: the indices go there; name the plan itself .json")
        beside = place.with_suffix(".safetensors")
        with atomic_write(place) as text, atomic_write(beside) as binary:
            save_file(self.tensors(), binary)
            text.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan that `save` wrote; raises FileError where it is not one."""
        place = Path(path)
        try:
            text = place.read_text(encoding="utf-8")
            tensors = load_file(place.with_suffix(".safetensors"))
        except FileNotFoundError as error:
            missing = place.with_suffix(".safetensors") if place.exists() else place
            raise FileError(f"{missing}: there is no such file") from error
        except Exception as error:  # safetensors raises what a damaged header makes it stumble on
            raise FileError(
                f"{place}: not a plan that fxprune wrote: {root_cause(error, 200)}"
            ) from error
        try:
            return cls.of(text, tensors)
        except FileError as error:
            raise FileError(f"{place}: {error}") from error
