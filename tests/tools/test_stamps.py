"""The photos of ImageNet classes, without the package: pictures that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import stamps


def draw(path: Path, size: tuple[int, int] = (60, 40), color: object = (255, 0, 0, 255)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", size, color).save(path)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in stamps.labelled():
        draw(tmp_path / f"{name}.png")
    for number in range(5):
        draw(tmp_path / "other" / f"{number}.png", color=(0, 0, 50 * number, 255))
    monkeypatch.setenv("FXPRUNE_STAMPS", str(tmp_path))
    return tmp_path


def test_every_class_is_one_of_imagenet() -> None:
    known = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    found = stamps.labelled()
    assert len(found) == 62
    assert all(classes and {*classes} <= {*known} for classes in found.values())


def test_a_picture_stands_centred_on_white(tmp_path: Path) -> None:
    draw(tmp_path / "wide.png", (80, 20))
    image = stamps.picture(tmp_path / "wide.png")
    assert image.shape == (3, 224, 224)
    mean, std = (torch.tensor(one)[:, None, None] for one in (stamps.MEAN, stamps.STD))
    plain = image * std + mean
    red = (plain[0] - plain[1]) > 0.5
    rows, columns = red.any(1).nonzero().flatten(), red.any(0).nonzero().flatten()
    assert (int(columns[0]), int(columns[-1])) == (22, 200)
    assert abs(int(rows[0]) + int(rows[-1]) - 223) <= 1
    assert plain[:, 0, 0].tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    draw(tmp_path / "clear.png", color=(0, 0, 0, 0))
    image = stamps.picture(tmp_path / "clear.png")
    assert image.amin() == image[:, 0, 0].amin()


def test_photos_and_others(root: Path) -> None:
    data = stamps.photos()
    assert data.images.shape == (62, 3, 224, 224)
    assert data.right.any(1).all()
    assert data.right.sum() == sum(map(len, stamps.labelled().values()))
    assert len(stamps.others(5)) == 5
    with pytest.raises(ValueError, match="5 unlabelled pictures are there, not 6"):
        stamps.others(6)


def test_any_right_name_counts() -> None:
    class Says(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(x[:, 0, 0, 0].long(), 4).float()

    images = torch.zeros(3, 1, 1, 1)
    images[:, 0, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
    right = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    model = Says().train()
    assert stamps.accuracy(model, stamps.Photos(images, right), batch=2) == pytest.approx(2 / 3)
    assert model.training


def test_without_apt_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("FXPRUNE_STAMPS", str(tmp_path / "cache" / "stamps"))
    with pytest.raises(SystemExit, match="FXPRUNE_STAMPS") as caught:
        stamps.photos()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())
