"""Block targets: the exact number of blocks at the exact places, and masks that stay."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxprune
from fxprune.blocks import Grid, Layout, Pattern
from fxprune.errors import FxpruneError, SpecError


class Net(nn.Module):
    """Two convolutions with a norm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 10, 3, bias=False), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.second(x)).mean((2, 3)))


def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


X = (torch.randn(2, 3, 8, 8),)


def train(module: nn.Module, step: int = 0) -> None:
    """Train with everything that could move a weight that should stay zero."""
    made = torch.Generator().manual_seed(step)
    free = module.parameters()
    optimizer = torch.optim.SGD(free, 0.05, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        images = torch.randn(8, 3, 8, 8, generator=made)
        labels = torch.randint(5, (8,), generator=made)
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimizer.step()


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


# ---- masks stay ----------------------------------------------------------------------------------

TARGETS: dict[str, dict[str, Any]] = {
    "elements": {"kind": "block"},
    "rows": {"kind": "block", "block": "all", "axes": [0]},
    "filters": {
        "kind": "block",
        "block": ["all", "all", "all"],
        "axes": [1, 2, 3],
        "type": "Conv2d",
    },
    "ragged": {"kind": "block", "block": [3, 3], "axes": [0, 1]},
    "2:4": {"kind": "block", "block": {"n": 2, "m": 4}, "axes": [0], "include": ["first"]},
    "biases": {"kind": "block", "tensor": "bias"},
}


def zeroed(slim: Any) -> bool:
    parameters = dict(slim.named_parameters())
    return all(bool((parameters[name][~mask] == 0).all()) for name, mask in slim.plan.masks.items())


@pytest.mark.parametrize("name", TARGETS)
def test_masks_stay_through_everything(name: str, tmp_path: Path) -> None:
    model = network()
    spec = {"target": TARGETS[name], "objective": {"ratio": 0.5}}
    slim = fxprune.prune(model, spec, X)
    masks = slim.plan.masks
    assert masks
    assert all(0 < int(mask.sum()) < mask.numel() for mask in masks.values())
    with torch.no_grad():
        wanted = copy.deepcopy(model)
        for key, mask in masks.items():
            wanted.get_parameter(key).mul_(mask)
        assert torch.allclose(slim(*X), wanted(*X), atol=1e-6)
    path = tmp_path / "slim.pt2"
    fxprune.save(slim, path)
    pickled = io.BytesIO()
    torch.save(slim, pickled)
    pickled.seek(0)
    copies = {
        "itself": slim,
        "a copy": copy.deepcopy(slim),
        "a pickle": torch.load(pickled, weights_only=False),
        "a file": fxprune.load(path),
    }
    for what, one in copies.items():
        train(one.train())
        one.eval()
        one(*X)  # weights after the optimizer's last step are masked by the next forward
        assert zeroed(one), what
        assert {key: mask.tolist() for key, mask in one.plan.masks.items()} == {
            key: mask.tolist() for key, mask in masks.items()
        }
        for key, mask in masks.items():
            assert torch.equal(one.state_dict()[f"{key}_mask"], mask)
    fresh = fxprune.prune(model, spec, X)
    fresh.load_state_dict(slim.state_dict())
    assert torch.equal(fresh(*X), slim(*X))


def test_the_onnx_file_holds_the_zeros(tmp_path: Path) -> None:
    spec = {"target": {"kind": "block"}, "objective": {"ratio": 0.75}}
    slim = fxprune.prune(network(), spec, X)
    train(slim.train())
    slim.eval()
    fxprune.export_onnx(slim, tmp_path / "slim.onnx")
    values = {
        one.name: onnx.numpy_helper.to_array(one)
        for one in onnx.load(tmp_path / "slim.onnx").graph.initializer
    }
    assert any((value == 0).mean() > 0.7 for value in values.values() if value.ndim == 4)
    session = onnxruntime.InferenceSession(tmp_path / "slim.onnx")
    feeds = {session.get_inputs()[0].name: X[0].numpy()}
    assert np.allclose(session.run(None, feeds)[0], slim(*X).detach().numpy(), atol=1e-5)


def test_what_is_masked_is_said_apart_from_what_is_removed() -> None:
    spec = {"target": {"kind": "block"}, "objective": {"params": 0.5}}
    report = fxprune.prune(network(), spec, X).report
    assert report.parameters_after == report.parameters_before
    assert report.masked == pytest.approx(0.5 * report.parameters_before, rel=0.01)
    assert any("make neither the file nor a run" in note for note in report.notes)


def test_channels_and_elements_in_one_specification() -> None:
    spec = {
        "target": [{"kind": "channel"}, {"kind": "block", "metric": "l1"}],
        "allocation": "global",
        "objective": {"params": 0.4},
    }
    model = network()
    slim = fxprune.prune(model, spec, X)
    report = slim.report
    hidden = sum(int((~mask).sum()) for mask in slim.plan.masks.values())
    left = sum(p.numel() for p in slim.parameters()) - hidden
    assert left == report.parameters_after - report.masked
    assert left / report.parameters_before == pytest.approx(0.4, rel=0.01)
    assert report.parameters_after < report.parameters_before
    assert all(
        mask.shape == slim.get_parameter(name).shape for name, mask in slim.plan.masks.items()
    )


# ---- schedules, and masks that may be taken back -------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "agp", "exponential", "lottery-ticket"])
def test_schedules_on_elements(name: str) -> None:
    spec = {
        "target": {"kind": "block"},
        "schedule": {"name": name, "steps": 3},
        "objective": {"ratio": 0.8},
    }
    seen: list[float] = []

    def tune(module: nn.Module, step: int) -> None:
        train(module, step)
        with torch.no_grad():
            module(*X)
        weights = [p for p in module.parameters() if p.ndim > 1]
        gone = sum(int((p == 0).sum()) for p in weights)
        seen.append(gone / sum(p.numel() for p in weights))

    slim = fxprune.prune(network(), spec, X, fine_tune=tune)
    assert zeroed(slim)
    goals = [1 - step.goal for step in slim.report.steps]
    assert seen[-3:] == pytest.approx(goals, abs=0.01)


def test_movement_lets_masked_weights_come_back() -> None:
    """What the first step masks is not what the last does, though every step masks more."""
    spec = {
        "target": {"kind": "block"},
        "metric": "movement",
        "schedule": {"name": "movement", "steps": 4, "cooldown": 0},
        "objective": {"ratio": 0.6},
    }
    zeros: list[dict[str, Tensor]] = []

    def tune(module: nn.Module, step: int) -> None:
        train(module, step)
        masks = dict(module.named_buffers())
        zeros.append({k: ~v for k, v in masks.items() if k.endswith("_mask")})

    slim = fxprune.prune(network(), spec, X, fine_tune=tune)
    first, last = zeros[1], zeros[-1]
    assert any(bool((first[key] & ~last[key]).any()) for key in first)
    assert zeroed(slim)
    held = copy.deepcopy(slim)
    assert torch.equal(held(*X), slim(*X))


def test_a_mask_straight_through_hides_and_gives_back() -> None:
    from fxprune import masks

    model = network()
    dense = model.second.weight.detach().clone()
    mask = torch.rand_like(dense) > 0.5
    masks.attach(model, {"second.weight": mask}, dense=True)
    with torch.no_grad():
        model(*X)
    assert torch.equal(model.second.weight, dense)
    model(*X).square().sum().backward()
    assert torch.equal(model.second.weight, dense)
    reached = model.second.weight.grad
    assert reached is not None
    assert bool((reached[~mask] != 0).any())
    other = network()
    with torch.no_grad():
        other.second.weight.mul_(mask)
    other(*X).square().sum().backward()
    assert torch.allclose(reached, other.second.weight.grad)  # of the masked model, everywhere
    assert torch.allclose(model.first.weight.grad, other.first.weight.grad)


# ---- activations ---------------------------------------------------------------------------------


class Staged(nn.Module):
    """A stem, two residual blocks in a container, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stages = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for stage in self.stages:
            x = x + stage(x.relu())
        return self.head(x.mean((2, 3)))


SITES: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {
    "entries of an output": (
        {"tensor": "output", "include": ["stem"]},
        "stem:output",
        (1, 8, 8, 8),
    ),
    "channels of an output": (
        {"tensor": "output", "include": ["stages.0"], "block": ["all", "all"], "axes": [2, 3]},
        "stages.0:output",
        (1, 8, 8, 8),
    ),
    "blocks of an input": (
        {"tensor": "input", "include": ["stages.1"], "block": [3, 4], "axes": [2, 3]},
        "stages.1:input",
        (1, 8, 8, 8),
    ),
    "n:m of an input": (
        {"tensor": "input", "include": ["head"], "block": {"n": 2, "m": 4}, "axes": [1]},
        "head:input",
        (1, 8),
    ),
}


@pytest.mark.parametrize("schedule", ["one-shot", {"name": "linear", "steps": 2}])
@pytest.mark.parametrize("name", SITES)
def test_masks_of_activations(name: str, schedule: Any, tmp_path: Path) -> None:
    """What the mask drops is zero where the module hands it on, in this and every later form."""
    table, place, shape = SITES[name]
    torch.manual_seed(0)
    model = Staged().eval()
    images = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    spec = {
        "target": {"kind": "block", **table},
        "metric": "activation",
        "schedule": schedule,
        "objective": {"ratio": 0.5},
    }
    slim = fxprune.prune(model, spec, X, calibrate=images)
    mask = slim.plan.masks[place]
    assert mask.shape == shape
    assert 0.4 < float(mask.float().mean()) < 0.65
    module = model.get_submodule(place.split(":")[0])
    hook: Any = (
        module.register_forward_hook(lambda m, args, result: result * mask)
        if place.endswith("output")
        else module.register_forward_pre_hook(lambda m, args: (args[0] * mask,))
    )
    x = torch.randn(5, 3, 8, 8)
    wanted = model(x)
    hook.remove()
    fxprune.save(slim, tmp_path / "slim.pt2")
    fxprune.export_onnx(slim, tmp_path / "slim.onnx")  # compared with the module there
    for one in (slim, copy.deepcopy(slim), fxprune.load(tmp_path / "slim.pt2")):
        assert torch.allclose(one(x), wanted, atol=1e-5)
        train(one.train())
        assert any(name.startswith("activation_masks") for name in one.state_dict())
    assert not torch.allclose(model(x), wanted, atol=1e-3)


def test_the_weakest_activations_are_masked() -> None:
    model = Staged().eval()
    with torch.no_grad():
        model.stem.weight[2:5] *= 1e-3
        model.stem.bias[2:5] = 0
    spec = {
        "target": {**SITES["channels of an output"][0], "kind": "block", "include": ["stem"]},
        "metric": "activation",
        "objective": {"ratio": 3 / 8},
    }
    slim = fxprune.prune(model, spec, X, calibrate=[torch.randn(4, 3, 8, 8)])
    gone = (~slim.plan.masks["stem:output"]).all(3).all(2).flatten().nonzero().flatten()
    assert gone.tolist() == [2, 3, 4]


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
