"""The methods of repair by name: what a specification's key `repair` chooses from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal, Protocol

from torch import fx

from fxprune.registry import WIDEST, Registry
from fxprune.surgery.repair.activations import GIBIBYTE
from fxprune.surgery.repair.repairing import Batches, Repaired, repaired
from fxprune.surgery.repair.walk import Pair, Terms

REPAIRS = Registry("repair")


@dataclass(frozen=True, eq=False)
class Job:
    """Hold two graphs, which calls correspond, and the data, if any was given.

    `spared` says of some tensors why they stay as they are.
    """

    original: fx.GraphModule
    smaller: fx.GraphModule
    pairs: Mapping[fx.Node, Pair]
    spared: Mapping[str, str]
    batches: Batches | None = None


class Method(Protocol):
    """Repair a smaller graph, and return what changed; None where there is nothing to go by."""

    needs: ClassVar[str]  # "batches", or nothing
    folds: ClassVar[bool]  # whether means are folded, for which no data are needed

    def repair(self, job: Job) -> Repaired | None:
        """Return the tensors that are to be written, and what they bring."""


@REPAIRS.register("least-squares")
@dataclass(frozen=True)
class LeastSquares:
    """Refit every contraction to what the original gives on the same batches.

    Each is fitted when it is reached, from what the smaller graph really gives it, by ridge
    regression towards the weights that were kept (as in SliceGPT, arXiv:2401.15024, and in OBC,
    arXiv:2208.11580). `damping` is relative to the mean of the diagonal of XᵀX; "auto" takes that
    with which each half of the rows tells the other best. With `norms` the statistics of norms are
    corrected. `samples` rows are looked at, or 16 for each feature, and activations of more than
    `memory` bytes go to disk.
    """

    damping: float | Literal["auto"] = "auto"
    norms: bool = True
    samples: int = 16384
    memory: int = 2 * GIBIBYTE

    needs: ClassVar[str] = "batches"
    folds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.damping != "auto" and not 0.0 <= self.damping < inf:
            raise ValueError(f"damping={self.damping} is no number of 0 or more")
        if not 1 <= self.samples <= WIDEST or self.memory < 0:
            raise ValueError(
                f"samples={self.samples} (1 or more), memory={self.memory} (0 or more): one is "
                "out of its range"
            )

    def repair(self, job: Job) -> Repaired | None:
        """Walk through both graphs."""
        if job.batches is None:
            return None
        damping = None if self.damping == "auto" else float(self.damping)
        terms = Terms(damping, self.norms, self.samples, memory=self.memory)
        return repaired(job.original, job.smaller, job.pairs, job.batches, terms, job.spared)


@REPAIRS.register("auto")
@dataclass(frozen=True)
class Auto(LeastSquares):
    """Take `least-squares` where there are batches; without any, nothing is repaired."""

    needs: ClassVar[str] = ""


@dataclass(frozen=True)
class _Bare:
    needs: ClassVar[str] = ""
    folds: ClassVar[bool] = False

    def repair(self, job: Job) -> Repaired | None:
        """Return nothing: no data are looked at."""
        return None


@REPAIRS.register("means")
@dataclass(frozen=True)
class Means(_Bare):
    """Fold the means of removed units into biases, as the batch norms' own statistics tell them.

    The variances of the norms behind follow. Activations are taken as normally distributed and
    independent, through ReLU and others as rectified Gaussians (as in arXiv:1906.04721, which
    absorbs biases by them); what is constant is replaced exactly. No data are needed.
    """

    folds: ClassVar[bool] = True


@REPAIRS.register("none")
@dataclass(frozen=True)
class Nothing(_Bare):
    """Leave the weights as they were cut."""
