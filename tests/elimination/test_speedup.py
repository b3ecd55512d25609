"""Speed-up: exactly what is provably dead is gone, and the function is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune
from torch.utils import _pytree as pytree

import fxprune
from fxprune.errors import InputError, VerifyError
from tests.networks.dead import CASES, Case, chain, zero
from tests.networks.dead_heads import HEADS
from tests.networks.structures import IMAGE
from tests.networks.whole import randomise
from tests.support.noise import noise


def same(model: nn.Module, fast: nn.Module, inputs: Any) -> None:
    """Assert that two modules agree to 1e-5 of the largest output, at several batch sizes."""
    fast.eval()
    for batch in (1, 2, 5):
        fed = [x[torch.arange(batch) % len(x)] for x in inputs]
        fed = [torch.randn_like(x) if x.is_floating_point() else x for x in fed]
        with torch.no_grad():
            pairs = zip(*(pytree.tree_leaves(m(*fed)) for m in (model, fast)), strict=True)
        for ours, theirs in pairs:
            assert ours.shape == theirs.shape
            assert ours.numel() == 0 or ours.std() > 0 or ours.numel() == 1
            assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(ours.abs().max()))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


@pytest.mark.parametrize("case", CASES + HEADS, ids=lambda case: case.name)
def test_exactly_the_dead_are_gone(case: Case) -> None:
    model = case.made()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fast = fxprune.speedup(model, case.inputs)
    after = shapes(fast)
    changed = {name: shape for name, shape in after.items() if shapes(model).get(name) != shape}
    assert changed == case.shapes
    assert set(after) >= set(shapes(model))
    assert case.note in "\n".join(fast.report.notes)
    same(model, fast, case.inputs)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    again = fxprune.speedup(fast, case.inputs)
    assert shapes(again) == after  # a fixpoint


@pytest.mark.parametrize("kind", [nn.Identity, nn.Dropout, torch.ao.quantization.QuantStub])
def test_modules_that_hand_their_input_on_are_looked_through(kind: type[nn.Module]) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), kind(), nn.BatchNorm2d(6), kind(), nn.ReLU(), nn.Conv2d(6, 2, 1)
    ).eval()
    with torch.no_grad():
        for tensor in model[0].parameters():
            zero(tensor, 1, 4)
    fast = fxprune.speedup(model, (noise(2, 3, 5, 5),))
    assert shapes(fast)["0.weight"] == (4, 3, 1, 1)
    assert [type(child) for child in fast.children()] == [type(child) for child in model.children()]


def test_a_constant_moves_the_running_mean_where_there_is_no_bias() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1)
    ).eval()
    randomise(model)
    with torch.no_grad():
        zero(model[0].weight, 1)
    fast = fxprune.speedup(model, IMAGE)
    assert shapes(fast)["1.weight"] == (5, 5, 3, 3)
    assert "1.bias" not in shapes(fast)
    same(model, fast, IMAGE)
    assert not torch.equal(fast.get_buffer("2.running_mean"), model[2].running_mean)
    # batch statistics are those of what is left: training mode is the same too
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(fast.train()(x), model.train()(x), rtol=1e-4, atol=1e-4)


def test_a_refusal_names_the_operator_the_line_and_the_reason() -> None:
    case = next(case for case in CASES if case.name == "constant, padded")
    note = next(n for n in fxprune.speedup(case.made(), IMAGE).report.notes if "padding" in n)
    assert note.startswith("1 of a:channel are constant and kept: zero padding meets")
    assert "aten.conv2d.default at " in note
    assert "tests/networks/dead.py:" in note


def test_the_report_tells_speed_from_mask() -> None:
    model = chain()().eval()
    randomise(model)
    with torch.no_grad():
        zero(model.b.weight, 2, dim=1)  # type: ignore[union-attr]
        model.b.weight[0, :2] = 0  # type: ignore[union-attr,index]
    report = fxprune.speedup(model, IMAGE).report
    assert (report.zeros_before, report.zeros_after) == (6, 2)
    assert "6 parameters were zero: 4 (66.7%) were removed with dead units, and 2 are left" in str(
        report
    )
    assert report.parameters_after == report.parameters_before - 3 * 9 - 3 - 4
    assert fxprune.Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("structured", [True, False])
def test_models_that_torch_pruned(structured: bool, tmp_path: Any) -> None:
    model = chain(k=3, padding=1)().eval()
    randomise(model)
    if structured:
        torch_prune.ln_structured(model.a, "weight", 0.5, n=2, dim=0)
        torch_prune.ln_structured(model.b, "weight", 0.25, n=2, dim=1)
    else:
        torch_prune.l1_unstructured(model.a, "weight", 0.6)
        torch_prune.l1_unstructured(model.b, "weight", 0.6)
    fast = fxprune.speedup(model, IMAGE)
    same(model, fast, IMAGE)
    names = set(fast.state_dict())
    assert {"a.weight", "b.weight"} <= names
    assert not {name for name in names if name.endswith(("_orig", "_mask"))}
    assert shapes(fast)["b.weight"][1] == (6 if structured else 8)
    assert fast.report.zeros_before > 0
    fxprune.save(fast, tmp_path / "fast.pt2")
    same(model, fxprune.load(tmp_path / "fast.pt2"), IMAGE)


def test_our_own_masks_are_cut_and_stay() -> None:
    model = chain(k=3, padding=1)().eval()
    randomise(model)
    target = {"kind": "block", "tensor": "weight", "block": 1, "include": ["b"]}
    spec = {"target": target, "metric": "l1", "objective": {"ratio": 0.5}}
    slim = fxprune.prune(model, spec, IMAGE)
    with torch.no_grad():
        zero(slim.get_parameter("b.weight"), 3, dim=1)
    slim.plan.masks["b.weight"][:, 3] = False
    fast = fxprune.speedup(slim, IMAGE)
    mask = fast.plan.masks["b.weight"]
    assert mask.shape == fast.get_parameter("b.weight").shape
    assert mask.shape[1] <= 7
    assert fast.report.masked == int((~mask).sum())
    same(slim.eval(), fast, IMAGE)
    fast.train()(*IMAGE).sum().backward()
    assert not fast.get_parameter("b.weight").grad[~mask].any()


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(InputError, match="meta device"):
        fxprune.speedup(model, torch.randn(2, 3, device="meta"))


def test_a_wrong_constant_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.name == "scale of zero")
    monkeypatch.setattr("fxprune.passes.eliminate.compensate", lambda module, lost: [])
    with pytest.raises(VerifyError, match="speedup: the result differs"):
        fxprune.speedup(case.made(), IMAGE)


def test_the_same_layers_stay_when_a_whole_layer_is_dead() -> None:
    model = next(case for case in CASES if case.name == "MLP").made()
    with torch.no_grad():
        model.up.weight.zero_()  # type: ignore[union-attr,operator]
    inputs = (torch.randn(2, 6, 5),)
    fast = fxprune.speedup(model, inputs)
    assert shapes(fast)["up.weight"] == (1, 5)
    assert "an axis cannot become empty" in "\n".join(fast.report.notes)
    same(model, fast, inputs)
