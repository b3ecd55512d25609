"""Repair without data: moments as a sample has them, means folded on any graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune import pipeline  # the passes register themselves
from fxprune.allocators import Choice
from fxprune.api import parse_passes
from fxprune.capture import capture
from fxprune.elimination import constants
from fxprune.elimination.mean_folding import fold_means
from fxprune.elimination.moment_propagation import moments
from fxprune.elimination.moments import Moments
from fxprune.errors import ObjectiveError
from fxprune.targets import Original
from tests.networks.test_structures import NETWORKS
from tests.support.noise import noise

SHAPE = (3, 10, 10)
CUT = "couple,score,allocate{ratio=0.4},shrink"


class Net(nn.Module):
    """A stem of normalised channels, something in between, and a head that reads it."""

    def __init__(self, between: Callable[[Tensor], Tensor], channels: int = 12) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12)
        self.between = between
        self.head = nn.LazyLinear(5)
        with torch.no_grad():
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)
            self.eval()(torch.zeros(2, *SHAPE))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.norm(self.stem(x))))


class Wide(nn.Module):
    """A padded convolution that reads the channels, with or without a norm behind it."""

    def __init__(self, normed: bool, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 3, padding=1, **options)
        self.norm = nn.BatchNorm2d(12) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.relu())).mean((2, 3))


class Joined(nn.Module):
    """Channels beside others, and added to others, before something reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(12, 12, 1), nn.Conv2d(24, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        x = x + self.a(x)
        return self.b(torch.cat([x, F.gelu(x)], 1)).flatten(2).mean(2)


def pooled(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: act(x).mean((2, 3))


NETS: dict[str, Callable[[], nn.Module]] = {
    "nothing": lambda: Net(lambda x: x.mean((2, 3))),
    "relu": lambda: Net(pooled(F.relu)),
    "relu in place": lambda: Net(pooled(lambda x: F.relu_(x))),
    "relu6 in place": lambda: Net(pooled(nn.ReLU6(inplace=True))),
    "gelu": lambda: Net(pooled(F.gelu)),
    "silu": lambda: Net(pooled(F.silu)),
    "hardswish": lambda: Net(pooled(F.hardswish)),
    "leaky": lambda: Net(pooled(lambda x: F.leaky_relu(x, 0.2))),
    "sigmoid times": lambda: Net(pooled(lambda x: 2.0 * torch.sigmoid(x) + 1.0)),
    "average pooling": lambda: Net(lambda x: F.avg_pool2d(F.relu(x), 8).flatten(1)),
    "every position": lambda: Net(lambda x: F.relu(x).flatten(1)),
    "padding": lambda: Net(lambda x: F.pad(F.relu(x), (1, 1, 1, 1)).flatten(1)),
    "a padded convolution": lambda: Net(Wide(False)),
    "a norm behind it": lambda: Net(Wide(True)),
    "no bias and a norm": lambda: Net(Wide(True, bias=False)),
    "no bias and no norm": lambda: Net(Wide(False, bias=False)),
    "each channel by itself": lambda: Net(Wide(False, groups=12)),
    "sums and concatenation": lambda: Net(Joined()),
    "dropout": lambda: Net(lambda x: F.dropout(F.relu(x), 0.5, False).mean((2, 3))),
}


def settled(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network whose norms hold the statistics of data, and other data like it."""
    torch.manual_seed(0)
    model = NETS[name]()
    seen, other = (noise(2000, *SHAPE, seed=k) + 0.5 for k in (1, 2))
    for norm in [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]:
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        model(seen)
    return model.eval(), other


def pruned(model: nn.Module, how: str, x: Tensor, repair: bool = True) -> tuple[Any, list[str]]:
    """Return a pruned module, and what was said of its repair."""
    program = pipeline.run(capture(model, (x[:2],)), parse_passes(how))
    said: list[str] = []
    if repair:
        original, alive = program[Original], program[Choice].alive
        graphs = original.module, original.coupling, program.signature, program.module
        said = fold_means(*graphs, alive, grow=True).notes()
    return pipeline.run(program, parse_passes("restore")).module, said


@pytest.mark.parametrize("name", NETS)
def test_the_mean_of_the_outputs_is_kept(name: str) -> None:
    model, x = settled(name)
    given = copy.deepcopy(model.state_dict())
    bare, repaired = (pruned(model, CUT, x, repair)[0] for repair in (False, True))
    assert all(torch.equal(tensor, given[key]) for key, tensor in model.state_dict().items())
    with torch.no_grad():
        wanted, before, after = model(x), bare(x), repaired(x)
    spread = wanted.std(0).norm()
    left, lost = ((one.mean(0) - wanted.mean(0)).norm() / spread for one in (after, before))
    assert lost > 0.2
    assert left < 0.15 * lost + 0.02
    assert (after - wanted).square().mean() < (before - wanted).square().mean()


def test_the_variance_of_a_norm_follows() -> None:
    model, x = settled("no bias and a norm")
    off: dict[bool, float] = {}
    for repair in (False, True):
        one = pruned(model, CUT.replace("score", "score{metric=random}"), x, repair)[0]
        seen: list[Tensor] = []
        norm = one.get_submodule("between.norm")
        norm.register_forward_pre_hook(lambda _, args, to=seen: to.append(args[0]))
        with torch.no_grad():
            one(x)
        real = seen[0].var((0, 2, 3))
        off[repair] = float((norm.running_var.log() - real.log()).abs().mean())
    assert off[True] < 0.6 * off[False]


# ---- exact where nothing varies ------------------------------------------------------------------

DROPPING = (
    "couple,select{kind=channel,include=stem},score{metric=slim},"
    "allocate{ratio=0.41,round_to=1},shrink"
)
CONSTANT = [  # those whose units are constant if the norm makes them so, up to a border
    *("nothing", "relu", "relu in place", "relu6 in place", "gelu", "silu", "hardswish", "leaky"),
    *("sigmoid times", "average pooling", "every position", "no bias and no norm", "dropout"),
]


@pytest.mark.parametrize("name", CONSTANT)
def test_what_is_constant_is_replaced_exactly(name: str) -> None:
    model, x = settled(name)
    if name == "no bias and no norm":
        model.get_submodule("between.conv").padding = (0, 0)  # type: ignore[assignment]
    norm = model.get_submodule("norm")
    with torch.no_grad():
        norm.weight[:5] = 0.0  # type: ignore[index]
        norm.bias[:5] += 3.0  # type: ignore[index, operator]
    slim = pruned(model, DROPPING, x)[0]
    with torch.no_grad():
        torch.testing.assert_close(slim(x), model(x), atol=2e-4, rtol=1e-4)


# ---- moments -------------------------------------------------------------------------------------


def known(model: nn.Module, x: Tensor) -> dict[str, Any]:
    program = capture(model, (x[:2],))
    facts = constants(program.module, program.signature)
    return {node.name: one for node, one in moments(program.module, facts).items()}


@pytest.mark.parametrize(
    "act",
    [F.relu, F.gelu, F.silu, F.hardswish, F.relu6, torch.sigmoid, torch.tanh, F.elu, torch.square],
)
def test_moments_are_those_of_a_sample(act: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Net(pooled(act)).eval()
    norm = model.norm
    found = known(model, torch.zeros(2, *SHAPE))
    (one,) = [m for name, m in found.items() if m.shape == (2, 12, 8, 8) and "norm" not in name]
    assert one.mean.shape == (1, 12, 1, 1)  # equal entries are held once
    mean, deviation = norm.bias.double(), norm.weight.double().abs() * (1 / (1 + 1e-5)) ** 0.5
    sample = act(mean[:, None] + deviation[:, None] * noise(12, 200_000).double())
    scale = sample.std(1)
    assert ((one.mean.flatten() - sample.mean(1)).abs() < 0.01 * scale + 0.005).all()
    assert ((one.variance.flatten().sqrt() - scale).abs() < 0.06 * scale + 0.005).all()


def test_sums_of_independent_entries() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 24, 1)
            self.a, self.b = nn.BatchNorm2d(24), nn.BatchNorm2d(24)
            for norm in (self.a, self.b):
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return (self.a(x) + self.b(x.flip(0))).relu()

    torch.manual_seed(0)
    model = Summed().eval()
    found = known(model, torch.zeros(2, *SHAPE))
    variance = (model.a.weight**2 + model.b.weight**2).detach().double()
    got = found["add"].variance.flatten()
    assert torch.allclose(found["add"].mean.flatten(), (model.a.bias + model.b.bias).double())
    assert (got / variance - 1).abs().max() < 0.35  # of a few quantiles, paired by chance
    assert float((got / variance).mean()) == pytest.approx(1.0, abs=0.1)


def test_what_is_overwritten_is_no_more() -> None:
    found = known(NETS["relu in place"]().eval(), torch.zeros(2, *SHAPE))
    norm, act = found["batch_norm"], found["relu_"]
    assert isinstance(norm, Moments)
    assert norm is act  # whoever reads the norm's result reads the rectified one


# ---- where nothing is known ----------------------------------------------------------------------


def test_without_norms_nothing_is_changed_and_that_is_said() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    bare, (repaired, said) = (
        pruned(model, CUT, noise(2, 8), False)[0],
        pruned(model, CUT, noise(2, 8)),
    )
    state = bare.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in repaired.state_dict().items())
    assert said == [
        "what linear_1 lost has means that no batch norm tells: nothing makes up for it; give "
        "calibrate, and it is refitted"
    ]


def test_what_has_no_place_is_said() -> None:
    model, x = settled("no bias and no norm")
    program = pipeline.run(capture(model, (x[:2],)), parse_passes(CUT))
    original, alive = program[Original], program[Choice].alive
    graphs = original.module, original.coupling, program.signature, program.module
    found = fold_means(*graphs, alive)
    assert found.homeless == ("conv2d_1",)
    assert "conv2d_1 have no bias and no norm" in found.notes()[-1]
    assert "bias" not in dict(program.module.named_parameters())


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_any_graph_is_taken(network: Any) -> None:
    model = network()
    coupled = pipeline.run(capture(model.eval(), model.inputs), parse_passes("couple,score"))
    try:
        program = pipeline.run(coupled, parse_passes("allocate{ratio=0.4},shrink"))
    except ObjectiveError:
        pytest.skip("so much of it cannot leave")
    original, alive = program[Original], program[Choice].alive
    graphs = original.module, original.coupling, program.signature, program.module
    fold_means(*graphs, alive)
    after = pipeline.run(program, parse_passes("restore")).module
    assert all(bool(one.isfinite().all()) for one in after.parameters())


# ---- as a repair ---------------------------------------------------------------------------------

BY_MEANS = {"objective": {"ratio": 0.3}, "repair": "means"}


@pytest.mark.parametrize("name", ["relu", "a norm behind it", "sums and concatenation"])
def test_a_specification_asks_for_it(name: str) -> None:
    model, x = settled(name)
    bare = fxprune.prune(model, BY_MEANS | {"repair": "none"}, (x[:2],))
    slim = fxprune.prune(model, BY_MEANS, (x[:2],), calibrate=[x[:64]])  # which it does not need
    assert slim.plan.kept.keys() == bare.plan.kept.keys()
    assert [*slim.state_dict()] == [*bare.state_dict()]
    assert any("the means of removed units" in note for note in slim.report.notes)
    assert slim.report.repair is None
    with torch.no_grad():
        wanted = model(x)
        assert (slim(x) - wanted).square().mean() < 0.9 * (bare(x) - wanted).square().mean()


@pytest.mark.parametrize("order", ["repair{method=means},restore", "restore,repair{method=means}"])
def test_a_pass_folds_before_and_after_modules_are_restored(order: str) -> None:
    model, x = settled("a norm behind it")
    slim = fxprune.run(model, f"{CUT},{order}", (x[:2],))
    by_hand, _ = pruned(model, CUT, x)
    torch.testing.assert_close(slim(x[:8]), by_hand(x[:8]))


def test_every_step_of_a_schedule_is_repaired() -> None:
    model, x = settled("a norm behind it")
    spec = BY_MEANS | {"schedule": {"name": "agp", "steps": 3}}
    seen: list[Tensor] = []

    def tune(module: nn.Module, step: int) -> None:
        with torch.no_grad():
            seen.append(module.eval()(x).mean(0))

    for how in ("means", "none"):
        fxprune.prune(model, spec | {"repair": how}, (x[:2],), fine_tune=tune)
    with torch.no_grad():
        wanted = model(x).mean(0)
    pairs = zip(seen[1:3], seen[4:], strict=True)  # what goes first does nothing
    assert all((a - wanted).norm() < 0.5 * (b - wanted).norm() for a, b in pairs)
