"""The accuracy benchmark's data and networks, without the network: no download, no real image."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fashion

NAMES = tuple(fashion.NETWORKS)


def write_idx(path: Path, values: Tensor) -> None:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(head + values.numpy().tobytes()))


def random_split(count: int) -> fashion.Split:
    source = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 28, 28, generator=source) + 2.0 * labels[:, None, None, None]
    return fashion.Split(images, labels)


# ---- data ----------------------------------------------------------------------------------------


def test_a_folder_with_the_files_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.arange(3 * 28 * 28).remainder(256).to(torch.uint8).reshape(3, 28, 28)
    labels = torch.tensor([9, 0, 4], dtype=torch.uint8)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels)
    monkeypatch.setenv("FXPRUNE_DATA", str(tmp_path))

    data = fashion.load_data("test")

    assert (data.images.dtype, data.labels.dtype) == (torch.float32, torch.int64)
    assert data.labels.tolist() == [9, 0, 4]
    expected = (pixels[:, None] / 255 - fashion.MEAN) / fashion.STD
    torch.testing.assert_close(data.images, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08\x01" + struct.pack(">I", 5) + b"1234", r"\[5\] bytes and holds 4"),
        (b"\0\0\x0d\x01" + struct.pack(">I", 1) + b"1234", "not an IDX file of bytes"),
        (b"<html>", "not an IDX file of bytes"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message):
        fashion.read_idx(path)


def test_without_apt_the_error_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # `sh` is called by its full name
    with pytest.raises(SystemExit, match="FXPRUNE_DATA") as caught:
        fashion.load_data("train", tmp_path / "cache")
    assert "apt-get" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_augmented_images_are_shifted_and_mirrored_originals() -> None:
    image = torch.randn(1, 1, 28, 28)
    blank = torch.full((1, 1, 32, 32), -fashion.MEAN / fashion.STD)
    blank[:, :, 2:30, 2:30] = image
    possible = {
        window.numpy().tobytes()
        for down in range(5)
        for right in range(5)
        for window in [blank[0, :, down : down + 28, right : right + 28]]
        for window in (window.contiguous(), window.flip(2))
    }
    many = fashion.augmented(image.expand(300, -1, -1, -1), torch.Generator().manual_seed(0))
    seen = {one.contiguous().numpy().tobytes() for one in many}
    assert seen <= possible
    assert len(seen) > 40  # of 50


# ---- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_fits_and_tells_its_origin(name: str) -> None:
    model, facts = fashion.trained(name)  # load_state_dict is strict
    assert not model.training
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, fashion.CLASSES)
    assert {"accuracy", "command", "epochs", "seconds", "seed"} <= facts.keys()
    assert name in facts["command"]
    path = fashion.CHECKPOINTS / f"fashion_{name}.safetensors"
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (partial(fashion.ResNet20, width=4), (3, 1, 28, 28)),
        (partial(fashion.SmallViT, dim=12, depth=1, heads=3, ratio=3), (3, 1, 28, 28)),
    ],
    ids=["resnet20", "vit"],
)
def test_other_sizes_build(network: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert network()(torch.randn(shape)).shape == (3, fashion.CLASSES)


# ---- training ------------------------------------------------------------------------------------


def test_training_learns_and_repeats_itself() -> None:
    data = random_split(64)
    recipe = fashion.ADAMW._replace(rate=0.01, batch=16)
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = fashion.train(fashion.SmallViT(12, 1, 2), data, 10, recipe, seed=1)
        assert not model.training
        runs.append(model)
    assert fashion.accuracy(runs[0], data) > 0.9
    for first, second in zip(*(run.state_dict().values() for run in runs), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_part_of_an_epoch_sees_each_image_at_most_once() -> None:
    data = random_split(70)._replace(labels=torch.arange(70))
    drawn = list(fashion.batches(data, 16, 6, torch.Generator().manual_seed(0)))
    first = torch.cat([labels for _, labels in drawn[:4]]).tolist()
    assert len(drawn) == 6
    assert len(set(first)) == 64


def test_accuracy_leaves_the_mode_alone() -> None:
    data = random_split(7)
    model = fashion.ResNet20(width=2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fashion.accuracy(model, data, batch=3)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_saving_leaves_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion, "CHECKPOINTS", tmp_path / "new")
    model = fashion.ResNet20().to(memory_format=torch.channels_last)
    fashion.save(model, "resnet20", {"seed": "7"})
    again, facts = fashion.trained("resnet20")
    assert facts == {"seed": "7"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["fashion_resnet20.safetensors"]
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key])
