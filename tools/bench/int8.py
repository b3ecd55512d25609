"""Measure INT8 accuracy after pruning: prune, repair, quantise in ONNX Runtime, test.

    python tools/bench/int8.py --kept 1 0.5 0.3

The ResNet-20 trained on Fashion-MNIST keeps a share of its MACs (preset `l2`), is repaired on
unlabelled training images and exported. ONNX Runtime quantises the file statically: weights and
activations in eight bits, QDQ, one scale a channel, calibrated on the same images. Both files are
tested in ONNX Runtime on the 10,000 test images, which nothing else looks at. Nothing is trained.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import fashion
import fxprune

IMAGES, BATCH = 1024, 64  # to repair and to calibrate with
HEADINGS = ("kept MACs", "FP32 %", "INT8 %", "FP32 kB", "INT8 kB")


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Give batches of images to the quantiser."""

    def __init__(self, name: str, batches: list[torch.Tensor]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter({name: b.numpy()} for b in batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantised(path: Path, batches: list[torch.Tensor]) -> Path:
    """Write the file with eight-bit weights and activations beside itself, and return where."""
    ready, done = path.with_suffix(".ready.onnx"), path.with_suffix(".int8.onnx")
    quant_pre_process(path, ready, skip_symbolic_shape=True)
    name = onnxruntime.InferenceSession(ready).get_inputs()[0].name
    options = {"per_channel": True, "weight_type": QuantType.QInt8}
    quantize_static(ready, done, Reader(name, batches), **options)
    return done


def accuracy(path: Path, data: fashion.Split, batch: int = 500) -> float:
    """Return the share of the images that a file classifies rightly."""
    session = onnxruntime.InferenceSession(path)
    name, right = session.get_inputs()[0].name, 0
    for images, labels in zip(data.images.split(batch), data.labels.split(batch), strict=True):
        found = session.run(None, {name: images.numpy()})[0].argmax(1)
        right += int((torch.from_numpy(found) == labels).sum())
    return right / len(data.labels)


def row(kept: float, batches: list[torch.Tensor], test: fashion.Split) -> tuple[str, ...]:
    """Return the cells of one share of the MACs."""
    model, example = fashion.trained("resnet20")[0], batches[0][:4]
    if kept < 1:
        slim = fxprune.prune(model, {"preset": "l2", "objective": {"macs": kept}}, example)
        model = fxprune.repair(slim, model, batches)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        fxprune.export_onnx(model, path, example)
        small = quantised(path, batches)
        shares = [f"{accuracy(one, test):.2%}".rstrip("%") for one in (path, small)]
        sizes = [f"{one.stat().st_size / 1e3:.0f}" for one in (path, small)]
    return (f"{kept:.0%}", *shares, *sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kept", type=float, nargs="+", default=[1.0, 0.5, 0.3])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images = fashion.load_data("train").images
    source = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(images), generator=source)[:IMAGES]
    batches, test = list(images[chosen].split(BATCH)), fashion.load_data("test")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---:|' * len(HEADINGS)}")
    for kept in asked.kept:
        print(f"| {' | '.join(row(kept, batches, test))} |", flush=True)


if __name__ == "__main__":
    main()
