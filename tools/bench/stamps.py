"""Bring photos of ImageNet classes, and the real MobileNetV2 that was trained on ImageNet.

The photos are those stamps of the Debian package `tuxpaint-stamps-default` whose ImageNet class a
person told (`data/stamps_imagenet.tsv`: the picture, and the names any of which counts). The other
pictures of the package, photos and drawings, are the unlabelled ones. All are kept in
`$FXPRUNE_STAMPS`, or in `~/.cache/fxprune/stamps`; a folder that holds them is taken as it is.

    python tools/bench/stamps.py    # the accuracy of MobileNetV2 on the photos
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, to_tensor

PACKAGE = "tuxpaint-stamps-default"
INSIDE = "usr/share/tuxpaint/stamps"
CLASSES = Path(__file__).parent / "data" / "stamps_imagenet.tsv"
SIZE, MARGIN = 224, 0.1  # pixels a side, and the share of it that stays white on each side
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photos(NamedTuple):
    """Hold images, float32 [n, 3, 224, 224], and whether a class counts, bool [n, 1000]."""

    images: Tensor
    right: Tensor


def folder() -> Path:
    """Return the folder of the pictures; fetch the package first if it is not there."""
    cache = os.environ.get("FXPRUNE_STAMPS") or "~/.cache/fxprune/stamps"
    found = Path(cache).expanduser()
    if not found.is_dir():
        fetch(found)
    return found


def fetch(target: Path) -> None:
    """Download the Debian package and move its pictures to a folder, in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as scratch:
        for command in (f"apt-get download {PACKAGE}", f"dpkg-deb -x {PACKAGE}_*.deb ."):
            done = subprocess.run(command, shell=True, cwd=scratch, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(
                    f"stamps: `{command}` failed ({' '.join(done.stderr.split())[-200:]}): try "
                    f"`apt-get update`, or let FXPRUNE_STAMPS name a folder like {INSIDE} of "
                    f"{PACKAGE}"
                )
        (Path(scratch) / INSIDE).replace(target)


def labelled() -> dict[str, list[str]]:
    """Return the classes that count, by the name of the picture."""
    lines = [one for one in CLASSES.read_text("utf-8").splitlines() if not one.startswith("#")]
    pairs = [line.split("\t") for line in lines]
    return {name: [one.strip() for one in classes.split("|")] for name, classes in pairs}


def picture(path: Path) -> Tensor:
    """Return a picture centred on white, normalised as ImageNet's are."""
    with Image.open(path) as file:
        image = file.convert("RGBA")
    room = round(SIZE * (1 - 2 * MARGIN))
    scale = room / max(image.size)
    width, height = (max(1, round(scale * one)) for one in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    white = Image.new("RGBA", (SIZE, SIZE), "white")
    white.alpha_composite(image, ((SIZE - width) // 2, (SIZE - height) // 2))
    return normalize(to_tensor(white.convert("RGB")), MEAN, STD)


def photos() -> Photos:
    """Return the labelled photos."""
    categories = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    names, root = labelled(), folder()
    right = torch.zeros(len(names), len(categories), dtype=torch.bool)
    for row, classes in enumerate(names.values()):
        for one in classes:
            right[row] |= torch.tensor([category == one for category in categories])
        if not right[row].any():
            raise ValueError(f"{CLASSES}: no class of ImageNet is called {classes}")
    return Photos(torch.stack([picture(root / f"{name}.png") for name in names]), right)


def others(count: int) -> Tensor:
    """Return so many unlabelled pictures, spread evenly over the rest of the package."""
    taken, root = labelled(), folder()
    paths = sorted(root.rglob("*.png"))
    rest = [p for p in paths if str(p.relative_to(root).with_suffix("")) not in taken]
    if len(rest) < count:
        raise ValueError(f"{root}: {len(rest)} unlabelled pictures are there, not {count}")
    return torch.stack([picture(rest[k * len(rest) // count]) for k in range(count)])


@torch.no_grad()
def accuracy(model: nn.Module, data: Photos, batch: int = 16) -> float:
    """Return the share of the photos that a model, in evaluation mode, calls by a right name."""
    training = model.training
    model.eval()
    found = torch.cat([model(images).argmax(1) for images in data.images.split(batch)])
    model.train(training)
    return float(data.right[torch.arange(len(found)), found].float().mean())


def mobilenet() -> nn.Module:
    """Return MobileNetV2 with its ImageNet weights, in evaluation mode."""
    sys.path.append(str(Path(__file__).parents[1]))
    from demo import fetch_weights, load_model

    cache = Path(os.environ.get("FXPRUNE_WEIGHTS") or "~/.cache/fxprune").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    return load_model(fetch_weights(cache))


def main() -> None:
    torch.set_num_threads(1)
    data = photos()
    print(f"mobilenet_v2: {accuracy(mobilenet(), data):.2%} of {len(data.images)} photos")


if __name__ == "__main__":
    main()
