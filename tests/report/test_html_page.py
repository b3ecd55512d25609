"""The page of a report: safe whatever names it shows, offline, and alive in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import FileError
from fxprune.report.html_page import embedded

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "</script><img src=x onerror=alert(1)>"
X = (torch.zeros(4, 8),)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 16), *(Block() for _ in range(4)))
    model.add_module(HOSTILE, nn.Linear(16, 4))
    return model.eval()


@pytest.fixture(scope="module")
def slim() -> fxprune.SlimModule:
    spec = {
        "metric": "obs",
        "objective": {"macs": 0.5},
        "schedule": {"name": "linear", "steps": 2},
        "fine_tune": {"epochs": 1, "distillation": 1.0},
    }
    return fxprune.prune(net(), spec, X, calibrate=[(torch.randn(16, 8),)])


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_what_the_page_holds(slim: fxprune.SlimModule) -> None:
    data = data_of(slim.report.to_html())
    picture = data["picture"]
    assert data["title"] == "Sequential, pruned"
    assert data["spec"]["metric"]["name"] == data["metric"] == "obs"
    assert {"fxprune", "torch", "python"} <= set(picture["versions"])
    first = picture["layers"][0]
    assert first["width"][0] == 16
    assert first["type"] == "Linear"
    assert sum(one["macs"][0] for one in picture["layers"]) == data["report"]["macs_before"]
    assert sum(one["macs"][1] for one in picture["layers"]) == data["report"]["macs_after"]
    whole = sum(one["parameters"][1] for one in picture["layers"])
    assert whole == data["report"]["parameters_after"]
    assert picture["curves"]
    assert len(data["report"]["steps"]) == 2
    for one in picture["scores"]:
        assert len(one["edges"]) == len(one["kept"]) + 1 == len(one["removed"]) + 1


def test_blocks_that_look_alike_are_one_group(slim: fxprune.SlimModule) -> None:
    groups: dict[int, list[str]] = {}
    for one in data_of(slim.report.to_html())["picture"]["targets"]:
        groups.setdefault(one["group"], []).append(one["name"])
    assert sorted(map(len, groups.values())) == [1, 4]


def test_no_name_can_leave_its_place(slim: fxprune.SlimModule) -> None:
    page = slim.report.to_html()
    assert HOSTILE not in page
    assert HOSTILE in json.dumps(data_of(page))  # it is there, as text
    assert page.count("<script") == page.count("</script>")
    assert json.loads(embedded(["<!--<script>", float("nan")])) == ["<!--<script>", None]


def test_the_page_loads_nothing(slim: fxprune.SlimModule) -> None:
    page = slim.report.to_html()
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"\b(src|href)\s*=|url\(|@import", markup)
    assert "default-src 'none'" in markup


def test_it_goes_through_files_and_the_plain_report_is_no_longer(
    slim: fxprune.SlimModule, tmp_path: Path
) -> None:
    fxprune.save(slim, tmp_path / "slim.pt2")
    again = fxprune.load(tmp_path / "slim.pt2")
    assert again.report.picture == slim.report.picture
    assert "picture" not in again.report.to_dict()
    again.report.to_html(tmp_path / "page.html")
    assert data_of((tmp_path / "page.html").read_text(encoding="utf-8"))["picture"]["layers"]
    bare = fxprune.report.Report.from_json(slim.report.to_json())
    assert data_of(bare.to_html())["picture"] is None  # what an earlier version saved


def test_a_page_that_cannot_be_written_is_refused(slim: fxprune.SlimModule, tmp_path: Path) -> None:
    with pytest.raises(FileError):
        slim.report.to_html(tmp_path / "nowhere" / "page.html")


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as player:
        launched = player.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


def opened(browser: Any, path: Path, width: int, theme: str) -> tuple[Any, list[str]]:
    said: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
    page.on("console", lambda one: said.append(one.text))
    page.on("pageerror", lambda one: said.append(str(one)))
    page.on("dialog", lambda one: said.append("a dialog: a name was run"))
    page.on("request", lambda one: said.append(one.url) if "file:" not in one.url else None)
    page.goto(path.as_uri())
    page.wait_for_function("document.documentElement.dataset.ready")
    return page, said


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_it_lives(
    browser: Any, slim: fxprune.SlimModule, tmp_path: Path, width: int, theme: str
) -> None:
    slim.report.to_html(tmp_path / "page.html")
    page, said = opened(browser, tmp_path / "page.html", width, theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 251, 250)"
    assert light == (theme == "light")

    page.fill("#search", "1.up.bias")  # in the default view it is in a group of four
    assert page.inner_text("#found") == "1 found"
    page.press("#search", "Enter")
    assert "1.up:hidden" in page.inner_text("#detail")
    page.fill("#search", HOSTILE.lower())
    page.select_option("#view", "operators")
    assert page.inner_text("#found") == "1 found"  # the search goes on in another view
    page.select_option("#view", "targets")
    assert page.evaluate("Page.graph.nodes('[kind=\"hidden\"]').length") == 4
    page.fill("#search", "")

    page.evaluate("document.getElementById('graph').scrollIntoView({block: 'center'})")
    place = page.evaluate(
        "(() => { const p = Page.graph.nodes('[kind=\"hidden\"]')[0].renderedPosition();"
        " const b = document.getElementById('graph').getBoundingClientRect();"
        " return [b.left + p.x, b.top + p.y]; })()"
    )
    for k in range(50):  # until the graph has noticed that it was scrolled
        page.mouse.move(place[0] + k % 3, place[1])
        if page.is_visible("#tip"):
            break
        page.wait_for_timeout(100)
    assert "hidden 32 → " in page.inner_text("#tip")

    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") != theme
    for part in ("layers", "scores", "curves", "steps", "repair", "time"):
        page.locator(f"#{part}").scroll_into_view_if_needed()
        page.wait_for_function(f"Chart.getChart('{part}-chart') !== undefined")
    assert not said
    page.close()


def test_a_family_has_a_page(browser: Any, tmp_path: Path) -> None:
    spec = {"objective": {"ratio": 0.5}}
    family = fxprune.prune_family(net(), spec, X, sweep=[0.25, 0.5])
    family.to_html(tmp_path / "page.html")
    page, said = opened(browser, tmp_path / "page.html", 1400, "light")
    assert page.locator("#front-table tbody tr").count() == 3
    page.wait_for_function("Chart.getChart('front-chart') !== undefined")
    assert page.locator("main > section:visible").count() == 2  # the front, and the specification
    assert not said


def test_all_is_drawn_for_print(browser: Any, slim: fxprune.SlimModule, tmp_path: Path) -> None:
    slim.report.to_html(tmp_path / "page.html")
    page, said = opened(browser, tmp_path / "page.html", 900, "light")
    drawn = "[...document.querySelectorAll('section:not([hidden]) canvas')].filter(Chart.getChart)"
    charts = "document.querySelectorAll('section:not([hidden]) canvas[id]').length"
    before = page.evaluate(f"{drawn}.length")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert before < page.evaluate(f"{drawn}.length") == page.evaluate(charts)
    assert not said
    page.close()
