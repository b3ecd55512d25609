"""Which parts of results count: caches are left out, and so is what nobody names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fxprune
from fxprune.capture import capture
from fxprune.errors import InputError
from tests.support.side_results import Cache, Cached, Pair

IDS = torch.arange(10).view(2, 5)
HALF = {"objective": {"ratio": 0.5}}
CACHE = "left out of the result, as it is no tensor and no container of tensors: "


@pytest.mark.parametrize(
    ("form", "left", "kind"),
    [
        ("dict", "cache (Cache)", dict),
        ("tuple", "2 (Cache)", tuple),
        ("dataclass", "cache (Cache)", dict),
        ("nested", "past.0 (Cache), past.1.0 (Cache)", dict),
    ],
)
def test_a_cache_is_left_out_with_a_note(form: str, left: str, kind: type) -> None:
    model = Cached(form).eval()
    program = capture(model, (IDS,))
    assert CACHE + left in program.notes
    result = program.module(IDS)
    assert type(result) is kind
    plain = Cached("dict").eval()(IDS)["logits"]
    ours = result[0] if kind is tuple else result["logits"]
    torch.testing.assert_close(ours, plain)
    assert "forward" not in vars(model)


def test_a_cache_costs_no_unit_and_no_operator() -> None:
    """What torch skips in a concatenation is not in the graph, which is recorded quickly."""
    bare = fxprune.analyze(Cached(use_cache=False).eval(), (IDS,), outputs=["logits"])
    cached = fxprune.analyze(Cached().eval(), (IDS,), outputs=["logits"])
    assert [t.name for t in cached.targets] == [t.name for t in bare.targets]
    graph = capture(Cached().eval(), (IDS,)).module.graph
    assert not [node for node in graph.nodes if "cat" in node.name or "lift" in node.name]


def test_a_cache_that_holds_something_stays_in_the_graph() -> None:
    class Prefixed(Cached):
        def forward(self, ids: torch.Tensor, cache: Any = None) -> Any:
            cache = Cache()
            cache.keys = cache.values = torch.ones(ids.shape[0], 4, 1, 8)
            return super().forward(ids, cache)

    model = Prefixed().eval()
    module = capture(model, (IDS,)).module
    torch.testing.assert_close(module(IDS)["logits"], model(IDS)["logits"])


@pytest.mark.parametrize(
    ("form", "outputs"),
    [
        ("dict", ["logits"]),
        ("dict", "logits"),
        ("dataclass", ["logits"]),
        ("tuple", [0]),
        ("tuple", [-3]),
        ("namedtuple", ["logits"]),
        ("namedtuple", [0]),
    ],
)
def test_what_nobody_names_pins_nothing(form: str, outputs: Any) -> None:
    model = Cached(form, use_cache=False).eval()
    pinned = fxprune.analyze(model, (IDS,))
    free = fxprune.analyze(model, (IDS,), outputs=outputs)
    assert not any(t.name.startswith("out") for t in pinned.targets)
    assert any(t.name.startswith("out") for t in free.targets)
    slim = fxprune.prune(model, HALF, (IDS,), outputs=outputs)
    assert slim.out.out_features == 16
    (only,) = slim(IDS).values() if isinstance(slim(IDS), dict) else slim(IDS)
    assert only.shape == (2, 5, 16)
    mine = slim.write_back(Cached(form, use_cache=False).eval())
    every = mine(IDS)
    logits = every[0] if form in ("tuple", "namedtuple") else None
    logits = logits if logits is not None else getattr(every, "logits", None)
    torch.testing.assert_close(logits if logits is not None else every["logits"], only)


def test_a_named_tuple_stays_one_where_all_of_it_counts() -> None:
    module = capture(Cached("namedtuple", False).eval(), (IDS,), outputs=[0, 1]).module
    assert isinstance(module(IDS), Pair)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (["logit"], 'outputs: unknown output "logit"; did you mean "logits"'),
        ([7], "logits, hidden, cache"),
        ([], "a list of names or places is needed"),
        ([1.5], "a list of names or places is needed"),
        ({"logits"}, "a list of names or places is needed"),
    ],
)
def test_unknown_outputs_are_refused(outputs: Any, words: str) -> None:
    model = Cached().eval()
    with pytest.raises(InputError, match=re.escape(words)):
        fxprune.prune(model, HALF, (IDS,), outputs=outputs)
    assert "forward" not in vars(model)


def test_one_tensor_has_no_parts() -> None:
    with pytest.raises(InputError, match="returns one Tensor; leave outputs out"):
        fxprune.analyze(torch.nn.Linear(4, 4), torch.ones(2, 4), outputs=[0])


def test_outputs_are_carried_on(tmp_path: Path) -> None:
    model = Cached(use_cache=False).eval()
    spec = {**HALF, "schedule": {"name": "linear", "steps": 2}}
    slim = fxprune.prune(model, spec, (IDS,), outputs=["logits"])
    fxprune.save(slim, tmp_path / "slim.pt2")
    loaded = fxprune.load(tmp_path / "slim.pt2")
    assert loaded.signature.outputs == ("logits",)
    own = loaded.write_back(Cached(use_cache=False).eval())
    torch.testing.assert_close(own(IDS)["logits"], slim(IDS)["logits"])
    slim.plan.save(tmp_path / "plan.json")
    plan = fxprune.Plan.load(tmp_path / "plan.json")
    again = fxprune.apply(plan, Cached(use_cache=False).eval())
    again.load_state_dict(slim.state_dict())
    torch.testing.assert_close(again(IDS)["logits"], slim(IDS)["logits"])


def test_the_callers_own_class_carries_its_cache_on() -> None:
    model = Cached().eval()
    mine = fxprune.prune(model, HALF, (IDS,), outputs=["logits"], result="module")
    whole = mine(IDS)
    first = mine(IDS[:, :3])
    assert first["cache"].keys.shape[1] == mine.heads == 2
    rest = mine(IDS[:, 3:], first["cache"])
    torch.testing.assert_close(rest["logits"], whole["logits"][:, 3:])
