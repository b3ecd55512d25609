"""Movement pruning of a small transformer to half of its 4×4 blocks, on Fashion-MNIST.

The blocks of all weight matrices of the trained ViT are masked on one schedule, with as many steps:
by movement, hard (the top half) and soft (a threshold on learned scores, as it falls and moved to
where half is masked), which let masked weights come back, and by magnitude:

    python tools/bench/blocks.py --steps 60

Sanh et al. 2020 (arXiv:2005.07683), on blocks as Lagunas et al. 2021 (arXiv:2109.04838) have them.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F

import fashion
import fxprune

SPEC = {
    "target": {"kind": "block", "block": [4, 4], "axes": [0, 1], "type": ["Linear"]},
    "schedule": {"name": "movement", "steps": 6, "warmup": 1, "cooldown": 2},
    "objective": {"ratio": 0.5},
}
PENALTY = 1.1
RANKED = {"name": "global", "normalize": "none"}


def ways(penalty: float) -> dict[str, dict[str, Any]]:
    soft = {"name": "movement", "mode": "soft", "penalty": penalty}
    return {
        "movement, hard": {"metric": "movement", "allocation": RANKED},
        "movement, soft": {"metric": soft, "allocation": "threshold"},
        "soft, adjusted": {"metric": soft, "allocation": {"name": "threshold", "adjust": True}},
        "magnitude": {"metric": "l1", "allocation": RANKED},
    }


def loss(module: torch.nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def batches(data: fashion.Split, steps: int, size: int, seed: int) -> list[Any]:
    made = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.labels), generator=made)[: steps * size].split(size)
    return [(data.images[k], data.labels[k]) for k in order]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="training steps a fine-tuning")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate of AdamW")
    parser.add_argument("--penalty", type=float, default=PENALTY, help="of soft movement")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = fashion.load_data("train"), fashion.load_data("test")
    test = fashion.Split(test.images[: given.test], test.labels[: given.test])
    model, _ = fashion.trained("vit")
    print(f"{'way':<16}{'before':>9}{'masked':>9}{'bytes':>9}{'accuracy':>10}{'seconds':>9}")
    before = fashion.accuracy(model, test)
    for name, way in ways(given.penalty).items():
        began = time.perf_counter()

        def tune(module: torch.nn.Module, step: int) -> None:
            fxprune.FineTune(
                batches=batches(train, given.steps, 128, step),
                loss=loss,
                optimizer=lambda free: torch.optim.AdamW(free, given.rate),
                schedule="constant",
                recalibrate=False,
            )(module, step)

        slim = fxprune.prune(model, {**SPEC, **way}, (test.images[:2],), fine_tune=tune)
        gone = sum(int((~mask).sum()) for mask in slim.plan.masks.values())
        share = gone / sum(mask.numel() for mask in slim.plan.masks.values())
        score = fashion.accuracy(slim, test)
        kept = slim.report.bytes_after / slim.report.bytes_before
        spent = time.perf_counter() - began
        print(f"{name:<16}{before:>9.2%}{share:>9.1%}{kept:>9.0%}{score:>10.2%}{spent:>9.0f}")


if __name__ == "__main__":
    main()
