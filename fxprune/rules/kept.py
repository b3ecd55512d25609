"""Which indices survive a choice of variables."""

from __future__ import annotations

import numpy as np

from fxprune.guards import Guards, Ids, Mask


class Kept:
    """Answer which indices of a guard survive a choice of variables; `alive` is `[variables]`."""

    def __init__(self, guards: Guards, alive: Mask) -> None:
        self._survives = guards.survivors(alive)

    def mask(self, g: Ids) -> Mask:
        """Return the kept indices of a guard array, shape `[n]`."""
        return np.asarray(self._survives[g].all(axis=1))
