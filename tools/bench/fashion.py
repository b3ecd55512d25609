"""Bring the accuracy benchmark its data and its two small trained networks.

Fashion-MNIST comes from the Debian package `dataset-fashion-mnist`, without root. It is kept in
`$FXPRUNE_DATA`, or in `~/.cache/fxprune/fashion-mnist`; a folder that holds the four IDX files is
taken as it is. The networks are trained from nothing, with one thread:

    python tools/bench/fashion.py train resnet20 --epochs 8   # writes checkpoints/fashion_*
    python tools/bench/fashion.py test resnet20               # the accuracy of the checkpoint

Training augments (a shift of up to 2 pixels, a mirror image) and follows one cycle of the learning
rate. The test images choose nothing: the last weights are the ones that are kept.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

CHECKPOINTS = Path(__file__).parent / "checkpoints"
PACKAGE = "dataset-fashion-mnist"
PREFIX = {"train": "train", "test": "t10k"}  # of the files' names
CONTENTS = ("images-idx3", "labels-idx1")
MEAN, STD = 0.2860, 0.3530  # of the pixels of the training images, between 0 and 1
CLASSES = 10
SHIFT = 2  # pixels that a training image may move each way


class Split(NamedTuple):
    """Hold images, float32 [n, 1, 28, 28], normalised by MEAN and STD, and labels, int64 [n]."""

    images: Tensor
    labels: Tensor


def read_idx(path: Path) -> Tensor:
    """Read a gzipped IDX file of bytes as uint8."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], dtype=">u4").tolist()
    if len(content) - start != prod(shape):
        raise ValueError(f"{path} should hold {shape} bytes and holds {len(content) - start}")
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).reshape(shape)


def fetch(folder: Path) -> None:
    """Download the Debian package and move its IDX files into a folder, each in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
        for command in (f"apt-get download {PACKAGE}", f"dpkg-deb -x {PACKAGE}_*.deb ."):
            done = subprocess.run(command, shell=True, cwd=scratch, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(
                    f"fashion: `{command}` failed ({' '.join(done.stderr.split())[-200:]}): try "
                    "`apt-get update`, or let FXPRUNE_DATA name a folder with the four IDX files"
                )
        for file in Path(scratch).rglob("*-ubyte.gz"):
            file.replace(folder / file.name)


def load_data(split: str, folder: Path | None = None) -> Split:
    """Return the images and labels of "train" or "test"; fetch them first if they are not there."""
    cache = os.environ.get("FXPRUNE_DATA") or "~/.cache/fxprune/fashion-mnist"
    folder = folder or Path(cache).expanduser()
    images, labels = (folder / f"{PREFIX[split]}-{rest}-ubyte.gz" for rest in CONTENTS)
    if not (images.exists() and labels.exists()):
        fetch(folder)
    pixels = read_idx(images).float().div_(255).sub_(MEAN).div_(STD)
    return Split(pixels.unsqueeze(1), read_idx(labels).long())


# ---- networks ------------------------------------------------------------------------------------


class Block(nn.Module):
    """Add two 3x3 convolutions to the input, halving the resolution where the width doubles."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = after // before
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.Conv2d(before, after, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet20(nn.Module):
    """Stack three stages of three residual blocks, as He et al. (2016) did for CIFAR-10."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        twice, most = 2 * width, 4 * width
        self.layer1 = nn.Sequential(Block(width, width), Block(width, width), Block(width, width))
        self.layer2 = nn.Sequential(Block(width, twice), Block(twice, twice), Block(twice, twice))
        self.layer3 = nn.Sequential(Block(twice, most), Block(most, most), Block(most, most))
        self.fc = nn.Linear(most, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    """Attend with several heads over one fused projection of queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Add attention, then an MLP, each to what it normalises (a pre-norm transformer layer)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """See an image as 49 patches of 4x4 pixels; classify the mean of the tokens."""

    def __init__(self, dim: int = 96, depth: int = 5, heads: int = 4, ratio: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, dim, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 49, dim) * 0.02)
        self.layers = nn.Sequential(*(Layer(dim, heads, ratio * dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(tokens)).mean(1))


# ---- training ------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """Say how to train: the optimizer, the peak of its learning rate, its other options."""

    optimizer: Callable[..., torch.optim.Optimizer]
    rate: float
    options: dict[str, Any]
    batch: int = 128


SGD = Recipe(torch.optim.SGD, 0.2, {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4})
ADAMW = Recipe(torch.optim.AdamW, 1.5e-3, {"weight_decay": 0.05}, batch=64)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Recipe]] = {
    "resnet20": (ResNet20, SGD),
    "vit": (SmallViT, ADAMW),
}


def augmented(images: Tensor, source: torch.Generator) -> Tensor:
    """Shift each image by up to SHIFT pixels and mirror half of them, by chance."""
    padded = F.pad(images, [SHIFT] * 4, value=-MEAN / STD)
    windows = padded.unfold(2, 28, 1).unfold(3, 28, 1)
    down, right = torch.randint(2 * SHIFT + 1, (2, len(images)), generator=source)
    shifted = windows[torch.arange(len(images)), :, down, right]
    mirror = torch.rand(len(images), 1, 1, 1, generator=source) < 0.5
    return torch.where(mirror, shifted.flip(3), shifted)


def batches(data: Split, size: int, count: int, source: torch.Generator) -> Iterator[Split]:
    """Yield augmented batches, every epoch in a new order; the odd rest of each is left out."""
    an_epoch = len(data.labels) // size
    for step in range(count):
        if step % an_epoch == 0:
            order = torch.randperm(len(data.labels), generator=source).split(size)
        chosen = order[step % an_epoch]
        yield Split(augmented(data.images[chosen], source), data.labels[chosen])


def train(
    model: nn.Module, data: Split, epochs: float, recipe: Recipe, seed: int = 0, loud: bool = False
) -> nn.Module:
    """Train a model in place, for whole epochs or parts of one, and leave it in evaluation mode."""
    source = torch.Generator().manual_seed(seed)
    steps = max(2, round(epochs * (len(data.labels) // recipe.batch)))
    model.to(memory_format=torch.channels_last).train()
    optimizer = recipe.optimizer(model.parameters(), lr=recipe.rate, **recipe.options)
    cycle = OneCycleLR(optimizer, recipe.rate, steps, pct_start=0.2, cycle_momentum=False)
    started, mean = time.perf_counter(), 0.0
    for step, (images, labels) in enumerate(batches(data, recipe.batch, steps, source), 1):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        mean += (loss.item() - mean) / min(step, 100)
        if loud and (step % 100 == 0 or step == steps):
            print(f"step {step}/{steps} loss {mean:.3f} {time.perf_counter() - started:.0f} s")
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Split, batch: int = 500) -> float:
    """Return the share of the images that a model, in evaluation mode, classifies rightly."""
    training = model.training
    model.eval()
    pairs = zip(data.images.split(batch), data.labels.split(batch), strict=True)
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in pairs)
    model.train(training)
    return right / len(data.labels)


def trained(name: str) -> tuple[nn.Module, dict[str, str]]:
    """Return a network with its committed weights, in evaluation mode, and how it was trained."""
    model = NETWORKS[name][0]()
    with safe_open(CHECKPOINTS / f"fashion_{name}.safetensors", "pt") as file:
        model.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        return model.eval(), file.metadata()


def save(model: nn.Module, name: str, facts: dict[str, str]) -> None:
    """Write the weights and the facts of their training, in one step."""
    path = CHECKPOINTS / f"fashion_{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, fresh, facts)
    fresh.replace(path)


def run_training(name: str, epochs: float, seed: int) -> None:
    """Train a network from nothing, test it, and write its checkpoint."""
    build, recipe = NETWORKS[name]
    torch.manual_seed(seed)
    started = time.perf_counter()
    model = train(build(), load_data("train"), epochs, recipe, seed, loud=True)
    facts = {
        "command": f"python tools/bench/fashion.py train {name} --epochs {epochs:g} --seed {seed}",
        "epochs": f"{epochs:g}",
        "seed": str(seed),
        "seconds": f"{time.perf_counter() - started:.0f}",
        "accuracy": f"{accuracy(model, load_data('test')):.4f}",
    }
    save(model, name, facts)
    print(facts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or test the networks of the benchmark.")
    parser.add_argument("what", choices=("train", "test"))
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--epochs", type=float, default=8.0, help="may be a part of one")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "train":
        return run_training(asked.network, asked.epochs, asked.seed)
    model, facts = trained(asked.network)
    print(f"{asked.network}: {accuracy(model, load_data('test')):.2%} (`{facts['command']}`)")


if __name__ == "__main__":
    main()
