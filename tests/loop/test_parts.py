"""A part of a model that cannot be captured whole is pruned in its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError, SpecError
from tests.support.noise import noise

IMAGES = [noise(3, 16, 16), noise(3, 16, 16)]
HALF = {"metric": "l1", "objective": {"ratio": 0.5}}


class Detector(nn.Module):
    """Find as many boxes as the numbers say, which no graph can; in training, return a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 24, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(24, 8, 1)),
        )
        self.head = nn.Conv2d(8, 5, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, images: list[Tensor], wanted: Tensor | None = None) -> Any:
        maps = self.head(self.backbone(torch.stack(images)))
        if self.training:
            return {"loss": (maps.mean((1, 2, 3)) - wanted).square().mean()}
        found = []
        for one in maps.flatten(2).transpose(1, 2):
            best = one[one[:, 0] > one[:, 0].mean().item()]
            found.append({"boxes": best[:, 1:], "scores": best[:, 0]})
        return found


def test_a_detector_is_pruned_by_its_backbone() -> None:
    torch.manual_seed(0)
    model = Detector().eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    own = fxprune.prune(model, HALF, (IMAGES,), part="backbone", result="module")
    assert type(own) is Detector
    assert own.backbone[0].out_channels == 8
    assert own.backbone[5].out_channels == 8
    assert own.report.macs_after < own.report.macs_before / 2
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    for size in (16, 24, 32):
        assert set(own([noise(3, size, size)])[0]) == {"boxes", "scores"}
    own.train()
    own([*IMAGES], torch.ones(2))["loss"].backward()
    assert own.backbone[0].weight.grad.shape == (8, 3, 3, 3)


@pytest.mark.parametrize(
    ("part", "words"),
    [("backbon", 'did you mean "backbone"'), ("unused", "does not call unused")],
)
def test_other_parts_are_refused(part: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fxprune.prune(Detector().eval(), HALF, (IMAGES,), part=part, result="module")


def test_a_part_stays_in_its_model() -> None:
    with pytest.raises(SpecError, match='say result="module"'):
        fxprune.prune(Detector().eval(), HALF, (IMAGES,), part="backbone")  # type: ignore[call-overload]
