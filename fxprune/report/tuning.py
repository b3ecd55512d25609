"""What a fine-tuning did: its loss, rate and score in every epoch, and which epoch was kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """Hold an epoch: the mean loss of its batches, the last rate, the evaluator's score, seconds.

    `apart` is the mean distance from the teacher's outputs, and `features` from its features, where
    there is one.
    """

    loss: float
    rate: float
    seconds: float
    apart: float | None = None
    features: float | None = None
    score: float | None = None

    def __str__(self) -> str:
        parts = [f"loss {self.loss:.4g}"]
        parts += [f"{self.apart:.4g} from the teacher"] if self.apart is not None else []
        parts += [f"features {self.features:.4g}"] if self.features is not None else []
        parts += [f"score {self.score:.4g}"] if self.score is not None else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Tuning:
    """Hold one call of a fine-tuning: its number, its epochs, and which of them was kept.

    `kept` counts from 1; it is the best where training stopped early, else the last, and 0 where
    there was none. `planned` is how many epochs there might have been.
    """

    step: int
    planned: int
    epochs: tuple[Epoch, ...] = ()
    kept: int = 0

    def __str__(self) -> str:
        if not self.epochs:
            return f"fine-tuning {self.step}: no epochs"
        early = f" of {self.planned}, stopped early" if len(self.epochs) < self.planned else ""
        many = f"{len(self.epochs)} epoch{'s' * (len(self.epochs) > 1)}"
        return (
            f"fine-tuning {self.step}: {many}{early}; "
            f"first {self.epochs[0]}; kept {self.kept}: {self.epochs[self.kept - 1]}"
        )
