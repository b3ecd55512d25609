"""One-shot, linear, automated gradual, exponential, lottery-ticket and movement schedules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.schedules.registry import Schedule, schedule


@schedule("one-shot")
@dataclass(frozen=True, kw_only=True)
class OneShot(Schedule):
    """Remove everything in one step."""

    @property
    def count(self) -> int:
        """Return 1."""
        return 1

    def sparsity(self, step: int, final: float) -> float:
        """Return the final sparsity."""
        return final


@dataclass(frozen=True, kw_only=True)
class _Stepwise(Schedule):
    steps: int = 5

    @property
    def count(self) -> int:
        return self.steps


@schedule("linear")
@dataclass(frozen=True, kw_only=True)
class Linear(_Stepwise):
    """Remove the same share in every step: s·t/T."""

    def sparsity(self, step: int, final: float) -> float:
        """Return s·t/T."""
        return final * step / self.steps


@dataclass(frozen=True, kw_only=True)
class _Cubic(_Stepwise):
    initial: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.initial < 1.0:
            raise ValueError(f"initial={self.initial:g}: 0 or more, and below 1, is needed")

    def _cubic(self, done: float, final: float) -> float:
        start = min(self.initial, final)
        return final + (start - final) * (1.0 - done) ** 3


@schedule("agp")
@dataclass(frozen=True, kw_only=True)
class AGP(_Cubic):
    """Remove much at first and less and less: s − (s − s₀)(1 − t/T)³ (Zhu and Gupta 2017).

    arXiv:1710.01878. `initial` is s₀.
    """

    def sparsity(self, step: int, final: float) -> float:
        """Return s − (s − s₀)(1 − t/T)³."""
        return self._cubic(step / self.steps, final)


@schedule("exponential")
@dataclass(frozen=True, kw_only=True)
class Exponential(_Stepwise):
    """Remove the same share of what is left in every step: 1 − (1 − s)^(t/T)."""

    def sparsity(self, step: int, final: float) -> float:
        """Return 1 − (1 − s)^(t/T)."""
        return final if step == self.steps else 1.0 - (1.0 - final) ** (step / self.steps)


@schedule("lottery-ticket")
@dataclass(frozen=True, kw_only=True)
class LotteryTicket(Exponential):
    """Train, remove a share, rewind the rest to the weights it had (Frankle and Carbin 2019).

    arXiv:1803.03635. The weights are those that the model came with: give the untrained
    network, and train it in `fine_tune`. After the last step the winning ticket is trained once
    more.
    """

    warmup: int = 1
    rewinds: ClassVar[bool] = True


@schedule("movement")
@dataclass(frozen=True, kw_only=True)
class Movement(_Cubic):
    """Fine-tune first, remove along a cubic curve, fine-tune last (Sanh et al. 2020).

    arXiv:2005.07683, with `warmup` fine-tunings before the first of `steps` removals and
    `cooldown` steps at the end, in which nothing more is removed.
    """

    warmup: int = 1
    cooldown: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.cooldown < self.steps:
            raise ValueError(f"cooldown={self.cooldown}: 0 to {self.steps - 1} is needed")

    def sparsity(self, step: int, final: float) -> float:
        """Return s − (s − s₀)(1 − t/(T − cooldown))³, and s while cooling down."""
        return self._cubic(min(1.0, step / (self.steps - self.cooldown)), final)
