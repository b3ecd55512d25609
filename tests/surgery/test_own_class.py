from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError, WriteBackError
from fxprune.plan import Plan
from tests.support.noise import noise
from tests.support.own_classes import (
    IMAGE,
    TOKENS,
    Convolutions,
    Decoder,
    Fused,
    Literal,
    Recurrent,
    config,
)

HALF = {"objective": {"ratio": 0.5}}
SEQUENCE = noise(2, 5, 32)


def pruned(model: nn.Module, x: Tensor, **target: Any) -> fxprune.SlimModule:
    return fxprune.prune(model, {"target": target or {}, **HALF}, (x,))


def state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return all that a model holds: copies of its tensors, and the attributes of its modules."""
    tensors = {name: one.clone() for name, one in model.state_dict().items()}
    own = set(vars(nn.Module()))
    held = {
        path: copy.deepcopy({k: v for k, v in vars(one).items() if k not in own})
        for path, one in model.named_modules()
    }
    return tensors, held


def told(held: Any) -> Any:
    """Return attributes with configurations opened, so that they can be compared."""
    if isinstance(held, Mapping):
        return {key: told(one) for key, one in held.items()}
    return told(vars(held)) if hasattr(held, "__dict__") else held


MODELS: list[tuple[Callable[[], nn.Module], Tensor, dict[str, int]]] = [
    (
        Convolutions,
        IMAGE,
        {"depthwise.groups": 4, "depthwise.in_channels": 4, "stem.out_channels": 4}
        | {"stem.in_channels": 3, "norm.num_features": 4, "up.out_channels": 6}
        | {"instances.num_features": 6, "act.num_parameters": 6, "head.in_features": 6},
    ),
    (Recurrent, TOKENS, {"lstm.hidden_size": 10, "lstm.input_size": 6, "embed.embedding_dim": 6}),
    (
        Fused,
        SEQUENCE,
        {"num_heads": 2, "head_dim": 4, "split_size": 8, "all_head_size": 8, "embed_dim": 32}
        | {"c_attn.nf": 24, "c_attn.nx": 32, "c_proj.nx": 8, "c_proj.nf": 32},
    ),
    (
        lambda: Decoder(config()),
        TOKENS,
        {"layers.1.attention.head_dim": 2, "layers.0.attention.repeats": 1}
        | {"layers.0.up.out_features": 24, "embed.embedding_dim": 16, "embed.num_embeddings": 16},
    ),
]


@pytest.mark.parametrize(("build", "x", "sizes"), MODELS)
def test_writes_back(build: Callable[[], nn.Module], x: Tensor, sizes: dict[str, int]) -> None:
    model = build().eval()
    slim = pruned(model, x)
    mine = copy.deepcopy(model)
    assert slim.write_back(mine) is mine
    assert type(mine) is type(model)
    for rows in (x, torch.cat([x, x, x])):
        torch.testing.assert_close(mine(rows), slim(rows), rtol=0, atol=0)
    assert {name: n.shape for name, n in mine.state_dict().items()} == {
        name: n.shape for name, n in slim.state_dict().items()
    }
    found = {}
    for name in sizes:
        path, _, attribute = name.rpartition(".")
        found[name] = getattr(mine.get_submodule(path), attribute)
    assert found == sizes


def test_what_was_trained_is_written_back_and_trains_on() -> None:
    model = Convolutions().eval()
    slim = pruned(model, IMAGE)
    with torch.no_grad():
        for parameter in slim.parameters():
            parameter.mul_(1.01)
    slim.write_back(model)
    torch.testing.assert_close(model(IMAGE), slim(IMAGE), rtol=0, atol=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(IMAGE).square().mean().backward()
    optimizer.step()


def test_what_is_tied_and_listed_stays_so() -> None:
    model = Decoder(config()).eval()
    weight, listed = model.embed.weight, list(model.parameters())
    pruned(model, TOKENS).write_back(model)
    assert model.head.weight is model.embed.weight is weight
    assert all(a is b for a, b in zip(listed, model.parameters(), strict=True))
    assert model.generate(TOKENS, 3).shape == (2, 8)


def test_a_literal_is_named_by_its_line_and_nothing_is_changed() -> None:
    model = Literal()
    model(SEQUENCE).sum().backward()
    slim = pruned(model, SEQUENCE)
    before, gradients = state(model), [p.grad for p in model.parameters()]
    data = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(
        WriteBackError, match=r"own_classes\.py:\d+: .*Leave out qkv:head"
    ) as raised:
        slim.write_back(model)
    tensors, held = state(model)
    assert all(torch.equal(one, before[0][name]) for name, one in tensors.items())
    assert told(held) == told(before[1])
    assert [p.data_ptr() for p in model.parameters()] == data
    assert [p.grad for p in model.parameters()] == gradients
    assert set(raised.value.targets) == {"qkv:head", "qkv:head_dim"}
    pruned(model, SEQUENCE, exclude=list(raised.value.targets)).write_back(model)
    assert model.up.out_features == 32


def test_one_number_cannot_be_two() -> None:
    model = Decoder(config(heads=4))  # the width of heads is one for queries, keys and values
    slim = pruned(model, TOKENS, include=["layers.0.attention.v"], kind="head_dim")
    with pytest.raises(WriteBackError, match=r"head_dim = 4 would have to be (2|4) .* Leave out"):
        slim.write_back(model)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Conv2d(3, 8, 3), "Conv2d refuses"),
        (lambda: Decoder(config(inner=40)), "not as the plan has it"),
    ],
)
def test_another_model_is_refused(build: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(InputError, match=words):
        pruned(Decoder(config()), TOKENS).write_back(build())


def test_twice_is_refused() -> None:
    model = Convolutions().eval()
    slim = pruned(model, IMAGE)
    slim.write_back(model)
    with pytest.raises(InputError, match="not as the plan has it"):
        slim.write_back(model)


def test_a_plan_is_applied_to_a_new_model(tmp_path: Path) -> None:
    slim = pruned(Decoder(config()).eval(), TOKENS)
    slim.plan.save(tmp_path / "plan.json")
    fresh = fxprune.apply(Plan.load(tmp_path / "plan.json"), Decoder(config()))
    fresh.load_state_dict(slim.state_dict(), strict=True)
    torch.testing.assert_close(fresh.eval()(TOKENS), slim(TOKENS), rtol=0, atol=0)


def test_a_plan_of_another_making_asks_for_inputs() -> None:
    plan = pruned(Decoder(config()), TOKENS).plan
    bare = Plan(plan.kept)
    with pytest.raises(InputError, match="give inputs="):
        fxprune.apply(bare, Decoder(config()))
    assert fxprune.apply(bare, Decoder(config()), (TOKENS,)).layers[0].up.out_features == 24


def test_what_is_beyond_the_plan_is_told() -> None:
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    slim = pruned(model, noise(2, 8))
    (last,) = slim.graph.output_node().all_input_nodes
    with slim.graph.inserting_before(slim.graph.output_node()):
        negative = slim.graph.call_function(torch.neg, (last,))
    slim.graph.output_node().replace_input_with(last, negative)
    slim.recompile()
    with pytest.raises(WriteBackError, match="does more than its plan"):
        slim.write_back(model)
