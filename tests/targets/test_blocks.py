"""Block targets: the exact number of blocks at the exact places, or a refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxprune
from fxprune.errors import FxpruneError, SpecError
from fxprune.targets import Grid
from fxprune.targets.blocks import Layout, Pattern
from tests.support.masked_net import X, network

# ---- against a slow reference --------------------------------------------------------------------

SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)


@st.composite
def cut_up(draw: Any) -> tuple[tuple[int, ...], Any, tuple[int, ...]]:
    shape = draw(SHAPES)
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    size = st.one_of(st.integers(1, 4), st.just("all"))
    return shape, tuple(draw(size) for _ in axes), tuple(axes)


def reference(shape: tuple[int, ...], block: Any, axes: tuple[int, ...]) -> dict[Any, list[Any]]:
    """Return the entries of every block, block by block in row-major order."""
    sizes = [1] * len(shape)
    for axis, size in zip(axes, block, strict=True):
        sizes[axis] = shape[axis] if size == "all" else size
    found: dict[Any, list[Any]] = {}
    for entry in np.ndindex(*shape):
        place = tuple(i // s for i, s in zip(entry, sizes, strict=True))
        found.setdefault(place, []).append(entry)
    return dict(sorted(found.items()))


@given(cut_up(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_grids(cut: Any, seed: int) -> None:
    shape, block, axes = cut
    blocks = reference(shape, block, axes)
    grid, pattern = Layout(block, axes).of("w", shape, "target")
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape)
    assert pattern is None
    assert len(grid) == len(blocks)
    assert grid.sizes().tolist() == [len(entries) for entries in blocks.values()]
    sums = [sum(values[e] for e in entries) for entries in blocks.values()]
    most = [max(values[e] for e in entries) for entries in blocks.values()]
    assert grid.pooled(torch.from_numpy(values)) == pytest.approx(sums)
    assert grid.pooled(torch.from_numpy(values), "max") == pytest.approx(most)
    keep = random.random(len(blocks)) < 0.5
    mask = grid.spread(keep)
    wanted = np.zeros(shape, dtype=bool)
    for kept, entries in zip(keep, blocks.values(), strict=True):
        for entry in entries:
            wanted[entry] = kept
    assert np.array_equal(mask.numpy(), wanted)


@given(cut_up(), st.integers(1, 9), st.sampled_from(["uniform", "global"]), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_the_least_blocks_go_exactly_so_many(
    cut: Any, tenths: int, allocation: str, seed: int
) -> None:
    """One weight of any shape: floor(ratio · blocks) of the smallest l1 norm are masked."""
    shape, block, axes = cut
    blocks = reference(shape, block, axes)
    if len(blocks) < 2 or tenths / 10 > (len(blocks) - 1) / len(blocks):
        return  # one block stays

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            self.weight = nn.Parameter(values)

        def forward(self, x: Tensor) -> Any:
            return x * self.weight

    model = Scaled()
    ratio = tenths / 10
    spec = {
        "target": {
            "kind": "block",
            "block": list(block),
            "axes": list(axes),
            "include": ["weight"],
        },
        "metric": "l1",
        "allocation": allocation,
        "objective": {"ratio": ratio},
    }
    slim = fxprune.prune(model, spec, (torch.randn(2, *shape),))
    norms = [sum(abs(float(model.weight[e])) for e in entries) for entries in blocks.values()]
    count = min(int(ratio * len(blocks) + 1e-9), len(blocks) - 1)
    gone = set(np.argsort(norms, kind="stable")[:count].tolist())
    for number, entries in enumerate(blocks.values()):
        for entry in entries:
            assert bool(slim.plan.masks["weight"][entry]) is (number not in gone)
    x = torch.randn(3, *shape)
    assert torch.equal(slim(x), x * (model.weight * slim.plan.masks["weight"]))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 9999),
)
@settings(max_examples=80, deadline=None)
def test_n_of_m(shape: tuple[int, ...], n: int, more: int, seed: int) -> None:
    m, axis = n + more, seed % len(shape)
    groups = Pattern(n, m, axis).groups(shape)
    values = np.random.default_rng(seed).standard_normal(shape)
    flat = values.ravel()
    seen: set[int] = set()
    for group in groups:
        places = [np.unravel_index(k, shape) for k in group]
        others = {tuple(np.delete(place, axis)) for place in places}
        along = [int(place[axis]) for place in places]
        assert len(others) == 1
        assert along == list(range(along[0], along[0] + m))
        assert along[0] % m == 0
        seen |= set(group.tolist())
    assert len(seen) == flat.size // shape[axis] * (shape[axis] // m * m)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2)])
def test_n_of_m_keeps_the_largest(n: int, m: int) -> None:
    model = network()
    target = {"kind": "block", "block": {"n": n, "m": m}, "axes": [1], "include": ["second"]}
    spec = {"target": target, "metric": "l1", "objective": {"ratio": 1 - n / m}}
    slim = fxprune.prune(model, spec, X)
    rows = model.second.weight.detach().abs().movedim(1, -1).reshape(-1, m)
    kept = slim.plan.masks["second.weight"].movedim(1, -1).reshape(-1, m)
    assert (kept.sum(1) == n).all()
    wanted = torch.zeros_like(kept).scatter(1, rows.topk(n, 1).indices, True)
    assert torch.equal(kept, wanted)


def test_very_many_elements_are_ranked_exactly() -> None:
    """More than moves are made of: the search is refined until single elements are told apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(90, 120), nn.ReLU(), nn.Linear(120, 70))
    with torch.no_grad():
        model[2].weight.mul_(3.0)
    for allocation in ("uniform", {"name": "global", "normalize": "none"}):
        spec = {
            "target": {"kind": "block"},
            "metric": "l1",
            "allocation": allocation,
            "objective": {"ratio": 0.637},
        }
        slim = fxprune.prune(model, spec, (torch.randn(2, 90),))
        weights = {name: p.detach().abs() for name, p in model.named_parameters() if p.ndim == 2}
        if allocation == "uniform":
            for name, weight in weights.items():
                count = int(0.637 * weight.numel() + 1e-9)
                line = weight.flatten().sort().values[count - 1]
                assert torch.equal(slim.plan.masks[name], weight > line)
            continue
        every = torch.cat([weight.flatten() for weight in weights.values()])
        line = every.sort().values[int(0.637 * len(every) + 1e-9) - 1]
        for name, weight in weights.items():
            assert torch.equal(slim.plan.masks[name], weight > line)


# ---- what cannot be ------------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, str]] = {
    "an axis beyond": ({"kind": "block", "block": [2], "axes": [7]}, r"target\.axes: 7: first.wei"),
    "an axis twice": ({"kind": "block", "block": [2, 2], "axes": [0, 0]}, "named twice"),
    "sizes and axes": ({"kind": "block", "block": [2, 2], "axes": [0]}, "2 sizes for 1 axes"),
    "no size": ({"kind": "block", "block": 0}, "block: .*a whole number of 1 or more"),
    "a text": ({"kind": "block", "block": "most"}, "'most': a whole number of 1 or more"),
    "n above m": ({"kind": "block", "block": {"n": 4, "m": 2}}, "a pattern is"),
    "n:m along two": ({"kind": "block", "block": {"n": 2, "m": 4}, "axes": [0, 1]}, "along one"),
    "a block of channels": ({"kind": "channel", "block": 2}, 'block is of blocks: set kind to "bl'),
    "no such tensor": (
        {"kind": "block", "tensor": "wieght"},
        'target.tensor: unknown value "wieght"',
    ),
    "nothing left": ({"kind": "block", "include": ["head.bias"]}, "no weight of two blocks"),
    "the same twice": ([{"kind": "block"}, {"kind": "block", "block": 2}], "in an earlier select"),
    "an activation of nothing": (
        {"kind": "block", "tensor": "output"},
        "name the modules whose out",
    ),
    "no such module": (
        {"kind": "block", "tensor": "output", "include": ["frst"]},
        'unknown module "frst"; did you mean "first"',
    ),
    "weights of activations": (
        {"kind": "block", "tensor": "output", "include": ["first"]},
        "l2 says nothing of blocks of activations",
    ),
    "distances of blocks": (
        {"kind": "block", "metric": "fpgm"},
        "fpgm says nothing of blocks of w",
    ),
    "a list of nothing": ({"kind": "block", "block": []}, "a size an axis is needed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_layouts_that_cannot_be(name: str) -> None:
    target, said = WRONG[name]
    with pytest.raises(SpecError, match=said) as raised:
        fxprune.prune(network(), {"target": target, "objective": {"ratio": 0.5}}, X)
    assert "\n" not in str(raised.value)


def test_masks_make_nothing_cheaper_and_that_is_said() -> None:
    spec = {"target": {"kind": "block"}, "objective": {"macs": 0.5}}
    with pytest.raises(FxpruneError, match=r"can go down to 1\.000"):
        fxprune.prune(network(), spec, X)


def test_an_empty_grid_has_no_blocks() -> None:
    assert Grid((0, 3), (1, 1)).counts == (0, 3)
