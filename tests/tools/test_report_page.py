"""The benchmark of pages measures what a report really does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import report_page
from fxprune.report.picture import Picture


class Tab:
    """A page that is ready at once."""

    def goto(self, place: str) -> None:
        assert place.startswith("file:")

    def wait_for_function(self, asked: str) -> None: ...
    def close(self) -> None: ...
    def evaluate(self, asked: str) -> str:
        return "12"


class Browser:
    def new_page(self, **_: Any) -> Tab:
        return Tab()


def test_a_row_counts_and_times(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny(weights: None) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        )

    before = Picture.of
    monkeypatch.setattr(report_page.torchvision.models, "tiny", tiny, raising=False)
    row = report_page.row("tiny", Browser(), tmp_path)
    assert row[:4] == ("tiny", "1", "1", "7")  # five modules, the input and the output
    assert row[-1] == "12"
    assert len(row) == len(report_page.COLUMNS)
    assert before == Picture.of  # put back
    assert torch.get_num_threads() == 1
