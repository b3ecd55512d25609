"""Files and pickles hold the numbers of their tensors, not those beside them in memory."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.files.storage import compacted

SECRET = 1234.5  # in the numbers that nobody asked to be saved
BYTES = torch.full((1,), SECRET).numpy().tobytes() * 8
MUCH = 2_000_000  # bytes of them


def of_many(*shape: int) -> torch.Tensor:
    """Return a view of a few numbers among many secret ones."""
    many = torch.full((MUCH // 4,), SECRET)
    some = many[: torch.Size(shape).numel()].view(shape)
    some.copy_(torch.randn(shape))
    return some


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def pruned(given: Any) -> Any:
    return fxprune.prune(network(), {"objective": {"ratio": 0.5}}, given)


def assert_small(data: bytes) -> None:
    assert len(data) < 200_000
    assert BYTES not in data


INPUTS = {
    "positional": lambda: (of_many(2, 6),),
    "batch of three": lambda: (of_many(3, 6),),
    "by name": lambda: {"input": of_many(2, 6)},
    "strided": lambda: (of_many(2, 12)[:, ::2],),
}


@pytest.mark.parametrize("name", INPUTS)
def test_examples_that_are_views(name: str, tmp_path: Path) -> None:
    slim = pruned(INPUTS[name]())
    fxprune.save(slim, tmp_path / "slim.pt2")
    assert_small((tmp_path / "slim.pt2").read_bytes())
    buffer = io.BytesIO()
    torch.save(slim, buffer)
    assert_small(buffer.getvalue())
    assert_small(pickle.dumps(slim))
    x = torch.randn(5, 6)
    for other in (fxprune.load(tmp_path / "slim.pt2"), pickle.loads(pickle.dumps(slim))):
        assert torch.equal(other(x), slim(x))
        ours = [*slim.signature.args, *slim.signature.kwargs.values()]
        theirs = [*other.signature.args, *other.signature.kwargs.values()]
        assert torch.equal(ours[0][:2], theirs[0][:2])


def test_weights_that_are_views(tmp_path: Path) -> None:
    slim = pruned((torch.randn(2, 6),))
    shape = slim.get_submodule("0").weight.shape
    slim.get_submodule("0").weight = nn.Parameter(of_many(*shape))
    fxprune.save(slim, tmp_path / "slim.pt2")
    assert_small((tmp_path / "slim.pt2").read_bytes())
    assert_small(pickle.dumps(slim))
    assert slim.get_submodule("0").weight.untyped_storage().nbytes() >= MUCH  # ours is left alone
    x = torch.randn(3, 6)
    assert torch.equal(fxprune.load(tmp_path / "slim.pt2")(x), slim(x))
    assert torch.equal(pickle.loads(pickle.dumps(slim))(x), slim(x))


def test_tied_views_stay_tied() -> None:
    shared = nn.Parameter(of_many(4, 4))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    slim: Any = fxprune.run(model, "restore", (torch.randn(2, 4),))
    slim.get_submodule("0").weight = slim.get_submodule("1").weight = shared
    again = pickle.loads(pickle.dumps(slim))
    assert again.get_submodule("0").weight is again.get_submodule("1").weight


def test_what_is_whole_stays_what_it_is() -> None:
    whole = torch.randn(6, 4)
    tree = {"whole": whole, "parts": (whole[:2], whole[2:]), "wide": torch.ones(1).expand(1000)}
    assert compacted(tree) is tree
    part, again = torch.randn(9, 4)[:3], torch.randn(9, 4)
    found = compacted([part, again[:3], again[:3], again[1:], "text", None])
    assert [one.untyped_storage().nbytes() for one in found[:4]] == [48, 48, 48, 128]
    assert found[1].data_ptr() == found[2].data_ptr()
    assert torch.equal(found[0], part)
    assert found[4:] == ["text", None]
