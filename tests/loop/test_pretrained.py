"""A pruned model of its own class is kept in a folder and built again from there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fxprune
from fxprune.errors import FileError, InputError
from tests.support.own_classes import IMAGE, TOKENS, Convolutions, Decoder, config

SPEC = {"target": {"kind": "hidden"}, "allocation": "global", "objective": {"ratio": 0.5}}
LOADED = """
import sys, torch, fxprune
from tests.support.own_classes import TOKENS, Decoder, config
own = fxprune.load_pretrained(sys.argv[1], lambda: Decoder(config()))
assert type(own) is Decoder and own.head.weight is own.embed.weight and not own.training
widths = [layer.up.out_features for layer in own.layers]
torch.save((widths, own(TOKENS), own.generate(TOKENS, 3)), sys.argv[2])
"""


@pytest.fixture(scope="module")
def pruned() -> Decoder:
    torch.manual_seed(0)
    own = fxprune.prune(Decoder(config()).eval(), SPEC, (TOKENS,), result="module")
    assert isinstance(own, Decoder)
    return own


@pytest.mark.slow
def test_widths_that_differ_by_layer_come_back_in_a_new_process(
    pruned: Decoder, tmp_path: Path
) -> None:
    fxprune.save_pretrained(pruned, tmp_path / "model")
    told = tmp_path / "told.pt"
    subprocess.run([sys.executable, "-c", LOADED, tmp_path / "model", told], check=True)
    widths, numbers, tokens = torch.load(told)
    assert widths == [layer.up.out_features for layer in pruned.layers]
    assert len({*widths}) == 2
    assert torch.equal(numbers, pruned(TOKENS))
    assert torch.equal(tokens, pruned.generate(TOKENS, 3))


def test_types_and_the_report_come_back(tmp_path: Path) -> None:
    own = fxprune.prune(Convolutions(), {"objective": {"ratio": 0.5}}, (IMAGE,), result="module")
    own.train().bfloat16()
    fxprune.save_pretrained(own, tmp_path)
    original = Convolutions()
    again = fxprune.load_pretrained(tmp_path, original)
    assert original.stem.out_channels == 16
    assert again.training
    assert {n: t.dtype for n, t in again.state_dict().items()} == {
        n: t.dtype for n, t in own.state_dict().items()
    }
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in own.state_dict().items())
    assert again.report.parameters_after == own.report.parameters_after


def test_what_was_written_back_is_saved_with_its_plan(tmp_path: Path) -> None:
    model = Convolutions().eval()
    slim = fxprune.prune(model, {"objective": {"ratio": 0.5}}, (IMAGE,))
    with pytest.raises(InputError, match="has no plan"):
        fxprune.save_pretrained(model, tmp_path)
    with pytest.raises(InputError, match="and the plan leaves"):
        fxprune.save_pretrained(model, tmp_path, slim.plan)
    fxprune.save_pretrained(slim.write_back(model), tmp_path, slim.plan)
    again = fxprune.load_pretrained(tmp_path, Convolutions)
    torch.testing.assert_close(again(IMAGE), slim(IMAGE))


def test_no_class_is_built_because_a_file_says_so(pruned: Decoder, tmp_path: Path) -> None:
    fxprune.save_pretrained(pruned, tmp_path)
    with pytest.raises(InputError, match="give model=, a function that builds it"):
        fxprune.load_pretrained(tmp_path)
    with pytest.raises(InputError):
        fxprune.load_pretrained(tmp_path, Convolutions)


def test_damaged_folders_are_refused(pruned: Decoder, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        fxprune.load_pretrained(tmp_path, lambda: Decoder(config()))
    fxprune.save_pretrained(pruned, tmp_path)
    facts = json.loads((tmp_path / "fxprune.json").read_text())
    for changed, words in (
        ({"format": "other"}, "not a model that fxprune wrote"),
        ({"digest": "0"}, "is not the one of fxprune.json"),
        ({"tied": {"head.weight": "nowhere"}}, "do not fit"),
    ):
        (tmp_path / "fxprune.json").write_text(json.dumps(facts | changed))
        with pytest.raises(FileError, match=words):
            fxprune.load_pretrained(tmp_path, lambda: Decoder(config()))
