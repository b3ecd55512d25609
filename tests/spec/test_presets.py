"""Every preset does what its paper says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.spec.preset_nets import TABLE, Attention, Idle, Mlp, Normed, Tuned, kept, nothing, prune

FIRST, LAST = [0, 1, 2, 3], [4, 5, 6, 7]  # halves of eight units


def norms(name: str, remain: list[int]) -> None:
    model = Mlp()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.first.weight[FIRST, 0] = 3.0  # one large weight: Σ|w| = 3, √Σw² = 3
        model.first.weight[LAST] = 1.0  # four small ones: Σ|w| = 4, √Σw² = 2
    assert kept(prune(model, name)) == remain


def level() -> None:
    model = Mlp()
    found = prune(model, "level")
    for name in ("first.weight", "last.weight"):
        given, got = model.get_parameter(name).detach(), found.get_parameter(name).detach()
        zero = got == 0.0
        assert float(zero.float().mean()) == pytest.approx(0.6, abs=0.03)  # biases stay
        assert given[zero].abs().max() < given[~zero].abs().min()
        torch.testing.assert_close(got[~zero], given[~zero])


def l1() -> None:
    norms("l1", LAST)


def l2() -> None:
    norms("l2", FIRST)


def fpgm() -> None:
    model = Mlp()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.first.weight.fill_(10.0)
        model.first.weight[LAST] += 4.0 * torch.eye(4)  # corners around the median: these are kept
        model.first.weight[FIRST] += 1.0  # by magnitude the first would stay
    assert kept(prune(model, "fpgm")) == LAST


def slim() -> None:
    model, x = Normed(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([0.5, 0.1, -0.6, 0.2, 0.7, -0.3, 0.8, 0.4]))
    tuned = Tuned(nothing, lr=100.0, watched="norm.weight")
    found = prune(model, "slim", x, fine_tune=tuned)
    shrunk = tuned.before[0].abs() - tuned.after[0].abs()
    torch.testing.assert_close(shrunk, torch.full((8,), 100.0 * 1e-4))  # lr · λ off each |γ|
    assert kept(found) == [0, 2, 4, 6]


def zeros(name: str) -> None:
    model = Mlp()
    with torch.no_grad():
        model.first.bias[FIRST] = -100.0  # never active, whatever comes
        model.first.bias[LAST] = 1.0
    assert kept(prune(model, name, calibrate=[torch.randn(16, 4) for _ in range(2)])) == LAST


def apoz() -> None:
    zeros("apoz")


def mean_activation() -> None:
    zeros("mean-activation")


def taylor_fo() -> None:
    model = Mlp()
    with torch.no_grad():
        model.first.bias.fill_(3.0)
        model.last.weight[0, FIRST] = 0.0  # the loss looks at the first output only
        model.last.weight[1:, FIRST] = 50.0

    def loss(module: Any, batch: Tensor) -> Tensor:
        return module(batch)[:, 0].square().mean()

    found = prune(model, "taylor-fo", calibrate=[torch.randn(16, 4)], loss=loss)
    assert kept(found) == LAST
    assert len(found.report.steps) == 5


def admm() -> None:
    model, tuned = Mlp(), Tuned(nothing, lr=100.0)  # lr · ρ = 0.1 of W − Z + U a call
    with torch.no_grad():
        for part in (model.first.weight, model.first.bias, model.last.weight.T):
            part[FIRST] *= 0.1
    found = prune(model, "admm", fine_tune=tuned)
    remain = kept(found)
    leave = [unit for unit in range(8) if unit not in remain]
    assert len(tuned.after) == 6
    torch.testing.assert_close(tuned.after[0], tuned.before[0])  # Z is not known before
    torch.testing.assert_close(tuned.after[4][remain], tuned.before[0][remain])
    sizes = torch.stack([one[leave].norm() for one in tuned.after[:5]])
    assert (sizes.diff() < 0).all()  # what is to leave goes to zero, faster and faster as U grows
    assert (sizes.diff().diff() < 0).all()


def movement() -> None:
    model = Mlp()
    with torch.no_grad():
        model.first.weight[FIRST] = 2.0  # large, and on their way to zero
        model.first.weight[LAST] = 0.1  # small, and on their way from it

    def loss(module: Any) -> Tensor:
        large = module.first.weight > 1.0
        weight = module.first.weight
        return 0.1 * (weight[large].sum() - weight[~large].sum()) + nothing(module)

    found = prune(model, "movement", fine_tune=Tuned(loss))
    assert kept(found) == LAST
    assert [step.goal for step in found.report.steps][-2:] == [0.5, 0.5]  # the last cools down


def soft_movement() -> None:
    model, masks = Mlp(), list[Tensor]()
    with torch.no_grad():
        model.first.weight[FIRST] = 20.0  # large, and on their way to zero
        model.first.weight[LAST] = 0.1  # small, and on their way from it
        model.last.weight.fill_(0.1)

    def loss(module: Any) -> Tensor:
        masks.append(getattr(module.first, "weight_mask", torch.ones(8, 4) > 0).clone())
        return (
            0.01 * module.first.weight[FIRST].sum()
            - 2.0 * module.first.weight[LAST].sum()
            - module.last.weight.sum()
        )

    spec = {"preset": "soft-movement", "metric": {"rate": 3.0, "penalty": 0.2}}
    found = prune(model, spec, fine_tune=Tuned(loss))
    falling = [float(mask[FIRST].float().mean()) for mask in masks]
    assert falling[0] == 1.0  # σ(0) is above the threshold
    assert falling[-1] == 0.0
    mask = found.plan.masks["first.weight"]
    assert not mask[FIRST].any()
    assert mask[LAST].all()
    assert found.plan.masks["last.weight"].all()  # no tensor has to give what others do
    (said,) = [note for note in found.report.notes if note.startswith("objective.ratio: asked 0.5")]
    assert "scores above the threshold of 0.1" in said


def goals(name: str, curve: Callable[[float], float]) -> None:
    tuned = Tuned(nothing)
    found = prune(Mlp(), name, fine_tune=tuned)
    wanted = [1.0 - curve(t / 5) for t in (1, 2, 3, 4, 5)]
    assert [step.goal for step in found.report.steps] == pytest.approx(wanted)
    assert [len(one) for one in tuned.before] == [round(8 * goal) for goal in wanted]


def linear() -> None:
    goals("linear", lambda done: 0.5 * done)


def agp() -> None:
    goals("agp", lambda done: 0.5 * (1.0 - (1.0 - done) ** 3))


def lottery_ticket() -> None:
    model = Mlp()
    given = model.first.weight.detach().clone()
    tuned = Tuned(lambda module: sum(one.square().sum() for one in module.parameters()))
    found = prune(model, "lottery-ticket", fine_tune=tuned)
    assert len(tuned.before) == 6
    for before, after in zip(tuned.before, tuned.after, strict=True):
        rows = [(row == given).all(1).any() for row in before]
        assert all(rows)  # every training starts from the weights that the model came with
        assert not torch.equal(before, after)
    torch.testing.assert_close(tuned.before[-1], given[kept(found)])
    torch.testing.assert_close(found.first.weight.detach(), tuned.after[-1])
    sparsity = [1.0 - step.goal for step in found.report.steps]
    assert sparsity == pytest.approx([1.0 - 0.5 ** (t / 5) for t in (1, 2, 3, 4, 5)])


def searched(name: str, **options: Any) -> tuple[Any, float, float]:
    """Prune the network whose second layer idles; return it, its score and that of uniform."""
    torch.manual_seed(1)
    model, x = Idle().eval(), torch.randn(32, 8)
    wanted = model(x).detach()
    tuned = Tuned(nothing, watched="a.weight")

    def evaluate(module: Any) -> float:
        with torch.no_grad():
            return -float((module(x) - wanted).square().mean())

    spec: dict[str, Any] = {"preset": name, "allocation": {"round_to": 1, **options}}
    given = {"evaluate": evaluate, "fine_tune": tuned}
    found = prune(model, spec, x, **given)
    even = prune(model, spec | {"allocation": {"name": "uniform", "round_to": 1}}, x, **given)
    assert len(kept(found, "b.weight")) < len(kept(found, "a.weight"))
    return found, evaluate(found), evaluate(even)


def simulated_annealing() -> None:
    _, score, even = searched("simulated-annealing", trials=30)
    assert score > even


def auto_compress() -> None:
    found, score, even = searched("auto-compress", trials=20)
    assert score > even
    sparsity = [1.0 - step.goal for step in found.report.steps]
    assert sparsity == pytest.approx([1.0 - 0.5 ** (t / 3) for t in (1, 2, 3)])


def amc() -> None:
    _, score, even = searched("amc", trials=30)
    assert score > even


def netadapt() -> None:
    found, score, even = searched("netadapt")
    assert len(kept(found, "a.weight")) == 64  # the layer whose loss is least is always the other
    assert score > even


def sensitivity() -> None:
    found, score, even = searched("sensitivity")
    assert len(kept(found, "a.weight")) >= 60  # it is the tender one
    assert score > even


def transformer_head() -> None:
    model, x = Attention(), torch.randn(2, 5, 8)
    with torch.no_grad():
        model.proj.weight[:, :4] *= 1e-3  # what the first two heads say hardly counts
    batches = [(torch.randn(4, 5, 8), torch.randn(4, 5, 8)) for _ in range(2)]

    def loss(module: Any, batch: Any) -> Tensor:
        return F.mse_loss(module(batch[0]), batch[1])

    found = prune(model, "transformer-head", x, calibrate=batches, loss=loss)
    assert {target.kind for target in found.plan.targets} == {"head"}
    assert kept(found, "proj.bias") == [*range(8)]
    assert kept(found, "up.weight") == [*range(16)]
    assert found.plan.kept["proj.weight"][1].tolist() == [4, 5, 6, 7]


def recover() -> None:
    model, data = Mlp(), [torch.randn(32, 4) for _ in range(4)]
    bare = prune(model, "l2")
    found = prune(model, "recover", calibrate=data)
    assert kept(found) == kept(bare)
    (told,) = found.report.tunings
    assert len(told.epochs) == 10
    with torch.no_grad():
        wanted = [model(batch) for batch in data]
        far, near = (
            sum(float((slim(b) - w).square().mean()) for b, w in zip(data, wanted, strict=True))
            for slim in (bare, found)
        )
    assert near < 0.7 * far  # it follows the original, with no label seen
    assert told.epochs[-1].features < told.epochs[0].features


def repair() -> None:
    model, data = Mlp(), [torch.randn(64, 4) for _ in range(4)]
    with torch.no_grad():  # every unit has a twin of another size: half of them say it all
        model.first.weight[LAST] = 0.5 * model.first.weight[FIRST]
        model.first.bias[LAST] = 0.5 * model.first.bias[FIRST]
        model.last.weight[:, LAST] = 0.1 * model.last.weight[:, FIRST]
    found = prune(model, "repair", calibrate=data)
    assert kept(found) == FIRST == kept(prune(model, "l2"))
    torch.testing.assert_close(found(data[0]), model(data[0]), rtol=1e-4, atol=1e-4)


def obs() -> None:
    model, data = Mlp(), [torch.randn(64, 4) for _ in range(4)]
    with torch.no_grad():  # small units with no like, and large ones that repeat each other
        model.first.weight[LAST] = 0.1 * torch.eye(4)
        model.first.bias[LAST] = 0.0
        model.first.weight[1:4], model.first.bias[1:4] = model.first.weight[0], model.first.bias[0]
        model.first.weight[FIRST] *= 3.0
    spec = {"preset": "obs", "metric": {"damping": 1e-6}, "objective": {"macs": 0.625}}
    found = prune(model, spec, calibrate=data)
    assert set(kept(found)) >= set(LAST)
    assert len(kept(found)) == 5
    assert kept(prune(model, {"preset": "l2", "objective": {"macs": 0.625}}))[:4] == FIRST
    torch.testing.assert_close(found(data[0]), model(data[0]), rtol=1e-3, atol=1e-3)


CLAIMS: dict[str, Callable[[], None]] = {name: globals()[name.replace("-", "_")] for name in TABLE}


@pytest.mark.parametrize("name", CLAIMS)
def test_it_does_what_the_paper_says(name: str) -> None:
    CLAIMS[name]()
