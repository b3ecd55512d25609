"""The benchmarks of large decoders and of checkpoints, on small ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import checkpoint
import scale
from decoders import Shape

SMALL = Shape(32, 4, 2, 48, 64)


def test_a_cell_and_the_table() -> None:
    row = scale.cell(SMALL, 1, False) | scale.cell(SMALL, 1, True)
    assert row["coverage"] == 1.0
    assert row["parameters"] == sum(one.numel() for one in scale.on_meta(SMALL, 1).parameters())
    twice = {name: 2 * number for name, number in row.items()}
    text = scale.table([{"width": "small", "layers": k} | one for k, one in ((1, row), (2, twice))])
    assert text.count("| small |") == 2
    assert "in the number of layers: capture 1.00, analysis 1.00, export 1.00." in text


def test_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total = checkpoint.make(tmp_path / "whole", SMALL, 2, 3)
    files = [*(tmp_path / "whole").glob("*.safetensors")]
    assert len(files) == 3
    assert total <= sum(path.stat().st_size for path in files)
    assert checkpoint.copied(tmp_path / "whole", tmp_path / "copy") > 0
    assert checkpoint.sums(tmp_path / "copy") == checkpoint.sums(tmp_path / "whole")
    checkpoint.work(tmp_path / "whole", tmp_path / "half", SMALL, 2)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0.4 < told["kept"] < 0.51
    assert told["peak"] >= 0
