"""Change a model in place, so that every change can be taken back to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from fxprune.surgery.own_class.places import Place


class Changes:
    """Keep account of what is changed of a model.

    Tensors keep their identity, so that what is tied stays tied, and optimizers and lists go on
    holding them: their data is put in place of the old data, which is kept until all is proven.
    """

    def __init__(self) -> None:
        self._tensors: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
        self._places: list[tuple[Place, int]] = []
        self._held: list[tuple[dict[str, Any], str, Any]] = []

    def narrow(self, tensor: torch.Tensor, smaller: torch.Tensor) -> None:
        """Give a tensor of the model other data; a gradient of the old shape is dropped."""
        self._tensors.append((tensor, tensor.data, tensor.grad))
        if smaller.shape != tensor.shape:
            tensor.grad = None
        tensor.data = smaller.detach()

    def put(self, place: Place, value: int) -> None:
        """Give an integer of the model another value."""
        held = vars(place.holder)
        self._held.append((held, place.attribute, held[place.attribute]))
        self._places.append((place, int(place.value)))
        place.put(value)

    def integers(self) -> Iterator[tuple[int, int]]:
        """Yield the integers that were changed, before and after."""
        for place, before in self._places:
            yield before, place.value

    @property
    def mark(self) -> int:
        """Return how many numbers were changed: `back` can return to here."""
        return len(self._held)

    def back(self, mark: int | None = None) -> None:
        """Take back the changes of numbers since a mark; without one everything."""
        while len(self._held) > (mark or 0):
            held, name, value = self._held.pop()
            held[name] = value
            self._places.pop()
        if mark is not None:
            return
        while self._tensors:
            tensor, data, gradient = self._tensors.pop()
            tensor.grad = None
            tensor.data = data
            tensor.grad = gradient
