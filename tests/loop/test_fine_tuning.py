"""Fine-tuning: rates, gradients, teachers, averages, the best epoch, and the history of it all."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import CallbackError, FxpruneError, SpecError
from fxprune.loop.fine_tuning.averaging import Average
from fxprune.loop.fine_tuning.bar import bar
from fxprune.loop.fine_tuning.features import with_features
from fxprune.loop.fine_tuning.precision import Precision
from fxprune.report import Report
from tests.loop.looped import X, batches, loss, network
from tests.spec.preset_nets import Mlp
from tests.support.noise import noise
from tests.support.pretended_gpu import PretendedGpu
from tests.support.small_nets import TOKENS, Attention, Residual

HALF = {"objective": {"macs": 0.5}}
DATA = batches(4)


def tune(**options: Any) -> fxprune.FineTune:
    return fxprune.FineTune(**{"batches": DATA, "loss": loss, **options})


def half(**given: Any) -> Any:
    return fxprune.prune(network(), HALF, X, **given)


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


# ---- what is refused -----------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no rate": ({"lr": 0.0}, "fine_tune: lr: 0.0: input should be greater than 0"),
    "fewer than none": ({"epochs": -1}, "fine_tune: epochs: -1: input should be greater than or"),
    "a text": ({"clip": "1"}, "fine_tune: clip: '1': input should be a valid number"),
    "more than all": ({"distillation": 1.5}, "fine_tune: distillation: 1.5: input should be less"),
    "a name for an optimizer": ({"optimizer": "adamw"}, 'algorithm="sgd" or "adamw" names one'),
    "a word": ({"distance": "kll"}, 'fine_tune: distance: unknown value "kll"; did you mean "kl"?'),
    "for ever": ({"ema": 1.0}, "fine_tune: ema: 1.0: input should be less than 1"),
    "longer than all": ({"warmup": 2.0}, "fine_tune: warmup=2: is longer than epochs=1"),
    "nothing to follow": ({"loss": None}, "a loss, or a teacher with distillation=1, is needed"),
    "half of nothing": ({"loss": None, "teacher": nn.Identity()}, "a loss, or a teacher with"),
    "nobody's features": ({"features": 1.0}, "features=1: a teacher is needed"),
    "no judge": ({"patience": 2}, "patience=2: evaluate is needed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_said(name: str) -> None:
    options, said = WRONG[name]
    with pytest.raises(CallbackError) as error:
        tune(**options)
    assert said in str(error.value)


TOGETHER: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "twice": (
        {},
        {"calibrate": DATA, "loss": loss, "fine_tune": lambda module, step: None},
        "leave one of the two out",
    ),
    "no batches": ({}, {"loss": loss}, "calibrate is missing; call prune"),
    "no loss": ({}, {"calibrate": DATA}, "which is missing; call prune(…, loss=…), or set distill"),
    "no judge": ({"patience": 1}, {"calibrate": DATA, "loss": loss}, "evaluate is missing"),
    "no such option": (
        {"epoch": 1},
        {},
        'fine_tune: unknown option "epoch"; did you mean "epochs"',
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_what_does_not_go_together_is_said(name: str) -> None:
    options, given, said = TOGETHER[name]
    with pytest.raises(SpecError) as error:
        half_by({**options}, **given)
    assert said in str(error.value)


def half_by(options: dict[str, Any], **given: Any) -> Any:
    return fxprune.prune(network(), {**HALF, "fine_tune": options}, X, **given)


# ---- the steps of the optimizer ------------------------------------------------------------------


def rates(count: int | None, **options: Any) -> list[float]:
    """Return the rate of every batch."""
    held: list[torch.optim.Optimizer] = []
    found: list[float] = []

    def made(given: Any) -> torch.optim.Optimizer:
        held.append(torch.optim.SGD(given, 1.0))
        return held[0]

    def seen(module: nn.Module, batch: Any) -> Tensor:
        found.append(held[0].param_groups[0]["lr"])
        return 0.0 * loss(module, batch)

    class Stream:
        def __iter__(self) -> Any:
            return iter(DATA)

    given = DATA if count else Stream()
    fxprune.FineTune(batches=given, loss=seen, optimizer=made, recalibrate=False, **options)(
        network(), 0
    )
    assert held[0].param_groups[0]["lr"] == 1.0  # put back
    return [round(one, 3) for one in found]


def test_the_rate_rises_and_falls() -> None:
    assert rates(4, epochs=1, schedule="constant") == [1.0] * 4
    assert rates(4, epochs=1) == [1.0, 0.854, 0.5, 0.146]
    assert rates(4, epochs=2, warmup=1.0) == [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146]
    # how long an epoch is becomes known in the first
    assert rates(None, epochs=2, warmup=1.0) == [0.5] * 4 + [1.0, 0.854, 0.5, 0.146]


def test_gradients_are_cut() -> None:
    module = network()
    before = torch.cat([one.detach().clone().ravel() for one in module.parameters()])
    huge = tune(
        batches=DATA[:1],
        loss=lambda m, b: 1e4 * loss(m, b),
        clip=0.5,
        lr=0.1,
        momentum=0.0,
        schedule="constant",
        recalibrate=False,
    )
    huge(module)
    moved = torch.cat([one.detach().ravel() for one in module.parameters()]) - before
    assert float(moved.norm()) == pytest.approx(0.1 * 0.5, rel=1e-3)


def test_an_algorithm_by_name() -> None:
    module, by_hand = network(), network()
    options = {"batches": DATA[:1], "schedule": "constant", "recalibrate": False, "lr": 0.01}
    torch.manual_seed(0)
    tune(algorithm="adamw", weight_decay=0.1, **options)(module)
    made = torch.optim.AdamW(by_hand.parameters(), 0.01, weight_decay=0.1)
    torch.manual_seed(0)
    tune(optimizer=made, **options)(by_hand)
    assert same(module, by_hand)


# ---- half precision ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amp", "there", "wide", "dtype", "scaled"),
    [
        (True, False, True, None, False),
        (False, True, True, None, False),
        (True, True, True, torch.bfloat16, False),
        (True, True, False, torch.float16, True),
    ],
)
def test_half_precision_is_for_a_gpu(
    amp: bool,
    there: bool,
    wide: bool,
    dtype: torch.dtype | None,
    scaled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: wide)
    module, gpu = network(), PretendedGpu()
    with gpu:
        if there:
            gpu.put(module)
        found = Precision.of(module, amp)
    assert found.dtype == dtype
    assert found.device == ("cuda" if dtype else "cpu")
    assert Precision.of(network().half(), amp).dtype is None
    scalers: list[Any] = []
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *given, **named: scalers.append(named))
    found.scaler()
    assert scalers == [{"enabled": scaled}]


def test_half_precision_is_held_while_the_loss_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def looked(module: nn.Module, batch: Any) -> Tensor:
        seen.append(module.get_submodule("head")(torch.ones(1, 16)).dtype)
        return loss(module, batch)

    half_on_cpu = Precision("cpu", torch.bfloat16)
    monkeypatch.setattr(Precision, "of", lambda module, amp: half_on_cpu)
    tune(loss=looked, batches=DATA[:1], recalibrate=False)(network())
    assert seen == [torch.bfloat16]


# ---- a teacher -----------------------------------------------------------------------------------


def outputs(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(images) for images, _ in DATA])


def apart(one: nn.Module, other: nn.Module) -> float:
    return float((outputs(one) - outputs(other)).square().mean())


def test_no_labels_are_needed() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    options = {"loss": None, "batches": [images for images, _ in DATA], "distillation": 1.0}
    followed = half(fine_tune=tune(teacher=model, epochs=8, lr=0.05, **options))
    assert apart(followed, model) < 0.5 * apart(half(), model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(one._forward_hooks for one in (*model.modules(), *followed.modules()))
    assert not model.training


@pytest.mark.parametrize("distance", ["kl", "mse"])
def test_classes_may_be_in_another_dimension(distance: str) -> None:
    """Sequences have their classes last: distances to oneself are zero, and to another are not."""
    student, teacher = nn.Linear(6, 5), nn.Linear(6, 5)

    def by_hand(a: Tensor, b: Tensor) -> Tensor:
        if distance == "mse":
            return (a - b).square().mean()
        p, q = (a / 2.0).softmax(-1), (b / 2.0).softmax(-1)
        return 4.0 * (q * (q.log() - p.log())).sum() / len(a)

    tokens = noise(2, 3, 6)
    with torch.no_grad():
        wanted = float(by_hand(student(tokens), teacher(tokens)))
    told = fxprune.FineTune(
        batches=[tokens],
        loss=lambda m, b: m(b).sum(),
        teacher=teacher,
        distance=distance,  # type: ignore[arg-type]
        classes=-1,
    )(student)
    assert told.epochs[0].apart == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_of_which_nothing_can_be_compared() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).flatten()

    tuned = tune(batches=[noise(4, 3)], loss=lambda m, b: m(b).sum(), teacher=Flat())
    with pytest.raises(CallbackError, match="teacher: the module gives no floating tensor"):
        tuned(Flat())


FEATURED: dict[
    str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], dict[str, Any], set[str]]
] = {
    "a residual network": (network, X, HALF, {"norm", "wide", "back", "head"}),
    "two steps": (
        network,
        X,
        {**HALF, "schedule": {"name": "linear", "steps": 2}},
        {"norm", "wide", "back", "head"},
    ),
    "norms on a stream": (Residual, X, {"objective": {"macs": 0.6}}, {"norm", "other", "head"}),
    "a fused projection": (
        Attention,
        TOKENS,
        {"target": "head_dim", "allocation": {"round_to": 1}, "objective": {"ratio": 0.4}},
        {"qkv", "proj"},
    ),
}


@pytest.mark.parametrize("name", FEATURED)
def test_features_are_matched_through_the_plan(name: str) -> None:
    build, inputs, spec, layers = FEATURED[name]
    torch.manual_seed(0)
    model = build().eval()
    slim = fxprune.prune(model, spec, inputs)
    whole, found = with_features(slim, model)
    assert {one.path for one in found} == layers
    cut = 0
    for one in found:
        weight = model.get_parameter(f"{one.path}.weight")
        kept = slim.plan.kept[f"{one.path}.weight"][0]
        axis = 1 if inputs is X else 2
        index = one.kept[axis]
        assert torch.equal(torch.arange(len(weight)) if index is None else index, kept)
        assert all(index is None for d, index in enumerate(one.kept) if d != axis)
        cut += index is not None
    assert cut
    assert torch.equal(whole(*inputs), model(*inputs))


def test_a_kept_feature_is_as_far_as_its_values() -> None:
    model = network()
    slim = fxprune.prune(model, HALF, X)
    found = {one.path: one for one in with_features(slim, model)[1]}
    images = noise(2, 3, 8, 8)
    mine, wanted = slim.norm(slim.stem(images)), model.norm(model.stem(images))
    assert float(found["norm"].apart(mine, wanted).detach()) == pytest.approx(0.0, abs=1e-12)
    assert float(found["norm"].apart(2.0 * mine, wanted).detach()) == pytest.approx(1.0, rel=1e-5)


def test_features_are_followed() -> None:
    model = network()
    options = {"distillation": 0.0, "teacher": model, "epochs": 6, "lr": 0.02}

    def silent(module: nn.Module, batch: Any) -> Tensor:
        return 0.0 * loss(module, batch)

    told = half(fine_tune=tune(loss=silent, features=1.0, **options)).report.tunings[0]
    seen = [one.features for one in told.epochs]
    assert seen[-1] < 0.8 * seen[0]
    assert half(fine_tune=tune(loss=silent, **options)).report.tunings[0].epochs[0].features is None


@pytest.mark.parametrize(
    ("teacher", "module", "said"),
    [
        (network, network, "matched for a module that fxprune pruned, not for Net"),
        (lambda: nn.Conv2d(3, 5, 1), None, "no layer of the pruned module stands in the teacher"),
    ],
)
def test_features_that_cannot_be_matched(
    teacher: Callable[[], nn.Module], module: Callable[[], nn.Module] | None, said: str
) -> None:
    with pytest.raises(CallbackError, match=said):
        tune(teacher=teacher(), features=1.0)(module() if module else half())


def test_a_wider_teacher_has_other_features() -> None:
    class Wider(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu())

    whole = fxprune.run(Mlp(), "restore", (noise(2, 4),))
    with pytest.raises(CallbackError, match=r"features: first gives \(2, 8\), and .* \(2, 12\)"):
        tune(batches=[noise(2, 4)], loss=lambda m, b: m(b).sum(), teacher=Wider(), features=1.0)(
            whole
        )


# ---- averages, and the best epoch ----------------------------------------------------------------


def test_the_average_of_the_weights() -> None:
    module = nn.Linear(1, 1, bias=False)
    average = Average(module, 0.3)
    values, wanted = [4.0, 6.0, 1.0], float(module.weight.detach())
    for t, value in enumerate(values, start=1):
        with torch.no_grad():
            module.weight.fill_(value)
        average.update()
        decay = min(0.3, (1 + t) / (10 + t))
        wanted = decay * wanted + (1.0 - decay) * value
    with average.held():
        assert float(module.weight.detach()) == pytest.approx(wanted)
    assert float(module.weight.detach()) == 1.0


def test_the_averaged_weights_are_scored_and_returned() -> None:
    seen: list[dict[str, Tensor]] = []

    def evaluate(module: nn.Module) -> float:
        assert not module.training
        seen.append(copy.deepcopy(module.state_dict()))
        return 0.0

    plain, averaged = network(), network()
    options = {"lr": 0.1, "recalibrate": False}
    tune(**options)(plain)
    torch.manual_seed(0)
    tune(ema=0.9, evaluate=evaluate, **options)(averaged)
    state = averaged.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in seen[0].items())
    assert not same(plain, averaged)


def test_it_stops_early_and_keeps_the_best() -> None:
    scores, states = [0.1, 0.3, 0.2, 0.3, 0.9], list[dict[str, Tensor]]()

    def evaluate(module: nn.Module) -> float:
        states.append(copy.deepcopy(module.state_dict()))
        return scores[len(states) - 1]

    module = network()
    told = tune(epochs=5, lr=0.1, evaluate=evaluate, patience=2, recalibrate=False)(module)
    assert [one.score for one in told.epochs] == [0.1, 0.3, 0.2, 0.3]
    assert (told.kept, told.planned) == (2, 5)
    assert "4 epochs of 5, stopped early" in str(told)
    state = module.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in states[1].items())
    states.clear()
    told = tune(epochs=3, lr=0.1, evaluate=evaluate, recalibrate=False)(network())
    assert (told.kept, len(told.epochs)) == (3, 3)


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [(lambda m: float("nan"), "it returned nan"), (lambda m: None, "evaluate: it raised Type")],
)
def test_a_judge_that_cannot_be_understood(evaluate: Any, said: str) -> None:
    with pytest.raises(CallbackError, match=said):
        tune(evaluate=evaluate)(network())


# ---- the history ---------------------------------------------------------------------------------

TRAINED = {"epochs": 2, "lr": 0.05, "features": 0.5, "patience": 2, "ema": 0.5}
STEPS = {"schedule": {"name": "agp", "steps": 2, "warmup": 1}, **HALF}


def judged(module: nn.Module) -> float:
    with torch.no_grad():
        return -sum(float(loss(module, batch)) for batch in DATA)


def test_a_specification_trains_as_python_does() -> None:
    spec, given = (
        {**STEPS, "repair": "none", "fine_tune": TRAINED},
        {"calibrate": DATA, "loss": loss},
    )
    one = fxprune.prune(network(), spec, X, evaluate=judged, **given)
    model = network()
    same_by_hand = tune(teacher=model, evaluate=judged, **TRAINED)
    other = fxprune.prune(model, STEPS, X, fine_tune=same_by_hand, evaluate=judged)
    assert same(one, other)
    assert [len(told.epochs) for told in one.report.tunings] == [2, 2, 2]
    assert [told.step for told in one.report.tunings] == [0, 1, 2]
    again = Report.from_json(one.report.to_json())
    assert again.tunings == one.report.tunings
    assert "fine-tuning 0: 2 epochs" in str(again)
    for told in one.report.tunings:
        for epoch in told.epochs:
            assert epoch.loss > 0
            assert epoch.apart is not None
            assert epoch.features is not None
            assert epoch.score is not None
            assert epoch.seconds > 0
    assert half(fine_tune=lambda module, step: None).report.tunings == ()


class Killed(BaseException):
    """Stand in for a signal that no handler catches."""


def test_a_killed_run_goes_on_with_the_same_history(tmp_path: Path) -> None:
    spec, calls = {**STEPS, "fine_tune": TRAINED}, list[int]()

    def dying(module: nn.Module) -> float:
        calls.append(1)
        if len(calls) == 5:  # within the second fine-tuning
            raise Killed
        return judged(module)

    def run(evaluate: Any, folder: Path) -> Any:
        torch.manual_seed(0)
        given = {"calibrate": DATA, "loss": loss, "evaluate": evaluate}
        return fxprune.prune(network(), spec, X, checkpoint=folder, **given)

    whole = run(judged, tmp_path / "whole")
    with pytest.raises(Killed):
        run(dying, tmp_path / "killed")
    resumed = run(judged, tmp_path / "killed")
    assert same(whole, resumed)

    def told(slim: Any) -> Any:
        return [[(e.loss, e.score, e.rate) for e in one.epochs] for one in slim.report.tunings]

    assert told(whole) == told(resumed)


def test_each_member_of_a_family_is_trained() -> None:
    spec = {**HALF, "fine_tune": {"epochs": 1, "distillation": 1.0}}
    family = fxprune.prune_family(network(), spec, X, sweep=[0.8, 0.5], calibrate=DATA)
    assert [len(one.module.report.tunings) for one in family.members] == [1, 1]


# ---- a bar ---------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Text that a terminal would show."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "shown", "visible"),
    [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)],
)
def test_a_bar_is_shown_in_a_terminal_only(
    stream: type[io.StringIO], shown: bool, visible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream())
    with bar("fine-tuning 3", 2, shown) as advance:
        advance("loss 0.5")
        advance("loss 0.25")
    assert ("fine-tuning 3" in sys.stderr.getvalue()) == visible  # type: ignore[attr-defined]


def test_the_graph_of_a_teacher_may_be_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(FxpruneError):
        tune(teacher=Branching(), features=1.0)(half())
