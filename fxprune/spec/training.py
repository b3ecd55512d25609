"""How a pruned model is trained: the options of fine-tuning, in a specification and in Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Train the pruned model after each step, with the batches and the loss that are given.

    It takes `epochs` over the batches at the rate `lr`. The `algorithm` is SGD with `momentum`, or
    AdamW. The rate rises for the first `warmup` epochs, which may be a fraction, and then falls
    along a cosine to zero, unless `schedule` is "constant". The norm of all gradients together is
    cut to `clip`. Where the model is on a GPU, `amp` computes in half precision.

    A teacher, the original model, is followed by `distillation`: a share d of the loss becomes
    d·T²·KL(teacher ‖ model) at `temperature` T, or by `distance` "mse" the squared difference
    (Hinton et al. 2015, arXiv:1503.02531). The classes are in dimension `classes` of each output.
    With `features` above 0 the loss also has, that many times, the mean squared error of what the
    model's layers give, relative to what the same channels of the teacher's give (Romero et al.
    2014, arXiv:1412.6550).

    With an `ema` above 0 the result is the average of the weights over the batches, in which those
    of a batch before count `ema` times as much. Where an evaluator is given, training stops after
    `patience` epochs that were no better than the best, whose weights are the result. The
    statistics of batch norms are estimated anew last, unless `recalibrate` is false.
    """

    epochs: Annotated[int, Field(ge=0)] = 1
    lr: Positive = 0.01
    algorithm: Literal["sgd", "adamw"] = "sgd"
    momentum: BelowOne = 0.9
    weight_decay: NotNegative = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: NotNegative = 0.0
    clip: Positive | None = None
    amp: bool = True
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Positive = 2.0
    distance: Literal["kl", "mse"] = "kl"
    classes: int = 1
    features: NotNegative = 0.0
    ema: BelowOne = 0.0
    patience: Annotated[int, Field(ge=1)] | None = None
    recalibrate: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError where two options cannot go together."""
        if self.warmup > self.epochs:
            raise ValueError(f"warmup={self.warmup:g}: is longer than epochs={self.epochs}")
