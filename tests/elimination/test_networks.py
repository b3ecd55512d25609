"""Speed-up of whole networks: what is known is true, and masks become what pruning gives."""

from __future__ import annotations

import copy
import operator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.utils import _pytree as pytree

import fxprune
from fxprune import passes, pipeline
from fxprune.capture import capture
from fxprune.elimination import constants
from fxprune.elimination.constant_propagation import rule_of
from fxprune.elimination.constant_values import ConstantValue, called
from fxprune.graphs import changed_later
from fxprune.program import Program
from fxprune.targets import Discovery
from tests.elimination.test_speedup import same, shapes
from tests.networks.attention import Separate
from tests.networks.blocks import SpectralNorm, WeightNorm
from tests.networks.growing import Network, networks
from tests.networks.movements import ListedChannels
from tests.networks.test_structures import NETWORKS
from tests.networks.whole import randomise
from tests.support.noise import noise

# ---- what is known is true -----------------------------------------------------------------------


class Truth(fx.Interpreter):
    """Run a graph and hold what is known of every node against its result."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.facts = constants(program.module, program.signature)
        self.changed = changed_later(program.module.graph)

    def run_node(self, n: fx.Node) -> Any:
        result, fact = super().run_node(n), self.facts.get(n)
        if (
            n.op == "call_function"
            and isinstance(fact, ConstantValue)
            and isinstance(result, torch.Tensor)
        ):
            if n.target is not operator.getitem:
                rule_of(n.target)(called(n, self.facts))  # it must not fail
            assert fact.value.shape == result.shape
            known = ~fact.varies
            if n not in self.changed and known.any():
                torch.testing.assert_close(
                    fact.value[known].double(), result[known].double(), rtol=1e-4, atol=1e-4
                )
        return result


def sparse(model: nn.Module, seed: int) -> nn.Module:
    """Zero random rows and columns of random parameters, and turn some signs."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.mul_(torch.randn(parameter.shape, generator=random).sign())
            for dim in range(min(2, parameter.ndim)):
                gone = torch.rand(parameter.shape[dim], generator=random) < 0.3
                if torch.rand((), generator=random) < 0.5:
                    parameter.index_fill_(dim, gone.nonzero().flatten(), 0)
    return model


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_what_is_known_is_true_of_every_structure(network: Any) -> None:
    model = network().eval()
    randomise(model)
    sparse(model, 0)
    inputs = [torch.randn_like(x) if x.is_floating_point() else x for x in model.inputs]
    program = capture(model, model.inputs)
    with torch.no_grad():
        Truth(program).run(*inputs)
    fast = fxprune.speedup(model, model.inputs).eval()
    ours, theirs = (pytree.tree_leaves(m(*inputs)) for m in (model, fast))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_nothing_is_constant_in_a_dense_model(network: Any) -> None:
    torch.manual_seed(0)
    model = network().eval()
    randomise(model)
    fast = fxprune.speedup(model, model.inputs)
    assert not [note for note in fast.report.notes if "constant and kept" in note]
    if isinstance(model, ListedChannels):  # half of the channels are in no list
        assert shapes(fast)["first.weight"][0] == 4
        return
    if not isinstance(model, WeightNorm | SpectralNorm):  # folded into plain weights
        assert shapes(fast) == {n: s for n, s in shapes(model).items() if n in shapes(fast)}
    assert any(note.startswith("nothing was removed") for note in fast.report.notes)


class LearnedValues(Separate):
    """Average values that no input changes, and that differ from key to key."""

    def build(self) -> None:
        super().build()
        self.value = nn.Parameter(torch.randn(6, 12))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return super().attend(q, k, self.heads(self.value[None]).expand(q.shape[0], -1, -1, -1))


def test_an_average_of_different_constants_is_not_constant() -> None:
    model = LearnedValues().eval()
    program = capture(model, model.inputs)
    with torch.no_grad():
        Truth(program).run(*model.inputs)
        model.value[:, 4:8] = torch.arange(4.0)  # the same at every key: a constant after all
    fast = fxprune.speedup(model, model.inputs)
    assert shapes(fast)["last.weight"] == (4, 8)
    same(model, fast, model.inputs)


# ---- random networks -----------------------------------------------------------------------------

EXAMPLES = (noise(2, 3, 4, 4), noise(2, 5))


@settings(max_examples=25)
@given(networks(), st.integers(0, 99))
def test_random_networks_with_random_zeros(network: Network, seed: int) -> None:
    randomise(network.eval())
    sparse(network, seed)
    program = capture(network, EXAMPLES)
    with torch.no_grad():
        Truth(program).run(*EXAMPLES)
    fast = fxprune.speedup(network, EXAMPLES).eval()
    other = (torch.randn(3, 3, 4, 4), torch.randn(3, 5))
    with torch.no_grad():
        ours, theirs = (pytree.tree_leaves(m(*other)) for m in (network, fast))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1.0, float(a.abs().max()))


@settings(max_examples=25)
@given(networks(), st.integers(0, 99))
def test_random_networks_lose_what_was_masked(network: Network, seed: int) -> None:
    randomise(network.eval())
    direct, mask = twice(network, EXAMPLES, seed)
    if direct is None:
        return
    fast = fxprune.speedup(mask, EXAMPLES)
    assert shapes(fast) == shapes(direct)


def twice(model: nn.Module, inputs: Any, seed: int = 0) -> Any:
    """Return a model pruned of random exact units, and the model with the same units masked."""
    program = pipeline.run(capture(model, inputs), [passes.make("couple", {})])
    if not any(target.exact for target in program[Discovery].targets):
        return None, None
    options = {"metric": "random", "options": {"seed": seed}}
    steps = [
        passes.make("select", {"exact": True}),
        passes.make("score", options),
        passes.make("allocate", {"ratio": 0.3, "round_to": 1}),
    ]
    program = pipeline.run(program, steps)
    made = ([passes.make(one, {}), passes.make("restore", {})] for one in ("shrink", "mask"))
    return tuple(pipeline.run(program, one).module for one in made)


# ---- well-known models ---------------------------------------------------------------------------


def vit() -> nn.Module:
    import torchvision

    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 48, 96)
    nn.init.normal_(model.heads.head.weight)  # it comes as zero, and then everything is dead
    return model


def named(name: str) -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    return vit() if name == "vit" else torchvision.models.get_model(name)  # type: ignore[no-any-return]


BIG = pytest.mark.slow
MODELS = [
    "vit",
    "resnet18",
    pytest.param("mobilenet_v2", marks=BIG),
    pytest.param("densenet121", marks=BIG),
]


@pytest.mark.parametrize("name", MODELS)
def test_masks_become_the_speed_of_pruning_directly(name: str) -> None:
    pytest.importorskip("torchvision")
    model, x = named(name).eval(), torch.randn(2, 3, 32, 32)
    direct, mask = twice(model, x)
    fast = fxprune.speedup(mask, x)
    assert shapes(fast) == shapes(direct)
    costs = fxprune.analyze(direct, x)
    assert (fast.report.parameters_after, fast.report.macs_after) == (costs.parameters, costs.macs)
    assert fast.report.macs_after < 0.8 * fast.report.macs_before
    same(copy.deepcopy(mask).eval(), fast, (x,))
