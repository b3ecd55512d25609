"""What is chosen by rank may leave: the numbers of what is left stay in step, or are told."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

import fxprune
from tests.networks.routing import Codebook, GroupLimited, Looped, Mixture, OneHot, Scattered, Twice
from tests.networks.whole import analyse, obey
from tests.support.noise import noise

X = noise(2, 6, 5)
# network -> the parameters that lose a part with an expert, which are its targets' footprints
STACKS = {"router.weight", "router.bias", "up", "down"}
FOOTPRINTS = {
    Mixture: STACKS | {"bias"},
    Scattered: STACKS | {"bias"},
    OneHot: STACKS | {"bias"},
    Twice: STACKS,
    GroupLimited: STACKS | {"correction"},
    Codebook: {"words"},
}


@pytest.mark.parametrize("network", FOOTPRINTS, ids=lambda network: network.__name__)
def test_all_of_an_expert_leaves_together(network: type[nn.Module]) -> None:
    found = analyse(network(), (X,)).discovery.targets
    name = "words" if network is Codebook else "router.weight"
    experts = [target for target in found if (name, 0) in target.footprint]
    assert {place[0] for target in experts for place in target.footprint} == FOOTPRINTS[network]
    assert all(target.exact for target in experts)
    assert {target.kind for target in experts} <= {"expert", "channel", "hidden"}


def test_a_group_of_experts_and_a_place_in_all_groups_are_units() -> None:
    analysis = analyse(GroupLimited(), (X,))
    sizes = [len(one) for one in analysis.discovery.targets if one.kind == "expert"]
    assert sorted(sizes) == [2, 3]


def test_as_many_experts_stay_as_are_chosen() -> None:
    spec = {"target": "expert", "objective": {"ratio": 0.75}, "schedule": "one-shot"}
    result = fxprune.prune(Mixture().eval(), spec, (X,))
    assert dict(result.named_parameters())["up"].shape[0] == 2


class Told(Mixture):
    """Read the numbers of experts as numbers: compared, added up, sought in a table."""

    def mixed(self, x: Tensor) -> Tensor:
        share, chosen = self.router(x).topk(2)
        odd = (chosen % 2 == 1).float() + 0.1 * chosen
        return x * (share.sigmoid() * odd).sum(-1, keepdim=True)


@pytest.mark.parametrize("network", [Told, Looped])
def test_who_computes_with_numbers_gets_those_of_before(network: type[nn.Module]) -> None:
    analysis = analyse(network(), (X,))
    assert analysis.coupling.recalled
    (router,) = [t for t in analysis.discovery.targets if ("router.weight", 0) in t.footprint]
    assert router.exact
    obey(analysis, (noise(3, 6, 5),), ratio=0.5)


class Seen(Mixture):
    """Hand the numbers of the chosen experts to the caller."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x).flatten(0, 1)
        return self.last(self.mixed(x)), self.router(x).topk(2)[1]


class Written(Mixture):
    """Change the numbers of the chosen experts in place."""

    def mixed(self, x: Tensor) -> Tensor:
        share, chosen = self.router(x).topk(2)
        chosen.add_(1)
        return x * (share * chosen).sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Seen, "the caller sees numbers of this axis"),
        (Written, "numbers of this axis are changed in place"),
    ],
)
def test_pins_with_a_reason(network: type[nn.Module], why: str) -> None:
    pinned = analyse(network(), (X,)).discovery.pinned
    assert any(one.unit.startswith("router.weight axis 0") and why in one.reason for one in pinned)
