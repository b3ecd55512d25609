"""How large the page of a report is, what it adds to a pruning, and how soon it is of use.

    python tools/bench/report_page.py resnet50 resnet152 vit_b_16 vit_l_16

Each torchvision model, with random weights, loses 30 % of every target. `picture ms` is the time in
which a report notes what only its page shows, `page ms` that of `to_html`. The page is opened three
times in headless Chromium (playwright, with the browser of the system): `ready ms` is the slowest,
from the start of the navigation until the graph can be searched and clicked.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision

import fxprune
from fxprune.report.picture import Picture

COLUMNS = ("model", "targets", "groups", "operators", "picture ms", "page ms", "KiB", "ready ms")
PASSES = "couple,select,score,allocate{ratio=0.3},shrink"
SIZE = 224


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return call(), 1e3 * (time.perf_counter() - began)


def reported(model: torch.nn.Module, x: torch.Tensor) -> tuple[Any, float]:
    """Return the report of a pruned model, and how long its picture took."""
    spent: list[float] = []
    plain = Picture.of

    def watched(*given: Any, **named: Any) -> Picture:
        picture, took = timed(lambda: plain(*given, **named))
        spent.append(took)
        return picture

    Picture.of = watched  # type: ignore[method-assign, assignment]
    try:
        return fxprune.run(model, PASSES, x, verify=False).report, spent[-1]
    finally:
        Picture.of = plain  # type: ignore[method-assign]


def ready(browser: Any, page: Path) -> float:
    """Return the milliseconds until a page is of use."""
    tab = browser.new_page(viewport={"width": 1400, "height": 900})
    tab.goto(page.as_uri())
    tab.wait_for_function("document.documentElement.dataset.ready")
    found = float(tab.evaluate("document.documentElement.dataset.ready"))
    tab.close()
    return found


def row(name: str, browser: Any, folder: Path) -> tuple[str, ...]:
    model = getattr(torchvision.models, name)(weights=None).eval()
    report, drawn = reported(model, torch.randn(2, 3, SIZE, SIZE))
    place = folder / f"{name}.html"
    _, took = timed(lambda: report.to_html(place))
    picture = report.picture
    counts = (
        len(picture.targets),
        len({one.group for one in picture.targets}),
        sum(one.kind != "parameter" for one in picture.flow.nodes),
    )
    size = place.stat().st_size / 1024
    opened = max(ready(browser, place) for _ in range(3))
    return (name, *map(str, counts), *(f"{n:.0f}" for n in (drawn, took, size, opened)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    names = parser.parse_args().models
    torch.set_num_threads(1)
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    print("| " + " | ".join(COLUMNS) + " |\n|---" + "|---:" * (len(COLUMNS) - 1) + "|")
    with sync_playwright() as player, tempfile.TemporaryDirectory() as folder:
        browser = player.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for name in names:
            print("| " + " | ".join(row(name, browser, Path(folder))) + " |", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
