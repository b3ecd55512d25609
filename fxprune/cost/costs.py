"""What was counted of a model before and after a removal."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Counts:
    """Hold parameters, multiply-accumulates for one example, and bytes of all tensors.

    `masked` of the parameters are kept at zero by masks. `activation_bytes` are the peak of
    activations that are alive at once, for one example.
    """

    parameters_before: int
    parameters_after: int
    masked: int
    macs_before: int
    macs_after: int
    bytes_before: int
    bytes_after: int
    activation_bytes_before: int
    activation_bytes_after: int


@dataclass(frozen=True)
class Costs(Counts):
    """Hold what was counted before and after a removal.

    `zeros` are parameters that were zero before dead units were removed, and those that are left
    after.
    """

    zeros_before: int = 0
    zeros_after: int = 0

    def unchanged(self) -> Costs:
        """Return what is counted where nothing has been removed."""
        return replace(
            self,
            parameters_after=self.parameters_before,
            macs_after=self.macs_before,
            bytes_after=self.bytes_before,
            activation_bytes_after=self.activation_bytes_before,
        )
