"""Which indices a choice of variables keeps."""

from __future__ import annotations

import numpy as np
import torch

from fxprune.guards import Guards, Ids, Mask


class Kept:
    """Answer which indices of a guard a choice of variables keeps; `alive` is `[variables]`.

    Guards of one normal form share one answer, which is for reading.
    """

    def __init__(self, guards: Guards, alive: Mask) -> None:
        self._guards = guards
        self._alive = alive
        self._masks: dict[int, tuple[Ids, Mask]] = {}  # id of a form -> the form, kept alive
        self._indices: dict[int, torch.Tensor] = {}

    def mask(self, g: Ids) -> Mask:
        """Return the kept indices of a guard array, shape `[n]`."""
        form = self._guards.normal(g)
        if id(form) not in self._masks:
            self._masks[id(form)] = form, np.asarray(self._alive[form].all(axis=1))
        return self._masks[id(form)][1]

    def indices(self, g: Ids) -> torch.Tensor:
        """Return the kept indices of a guard array as they count, int64, ascending."""
        key = id(self._guards.normal(g))
        if key not in self._indices:
            self._indices[key] = torch.from_numpy(np.flatnonzero(self.mask(g)))
        return self._indices[key]
