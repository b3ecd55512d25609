"""A narrowed module of the user's own class is used like any other; a refusal leaves no trace."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import fxprune
from fxprune.errors import WriteBackError
from fxprune.surgery.own_class import narrowing
from fxprune.surgery.own_class.proof import Fault, Proof
from fxprune.surgery.own_class.undoing import Changes
from tests.support.own_classes import IMAGE, TOKENS, Convolutions, Decoder, config

HALF = {"objective": {"ratio": 0.5}}


class Stopped(RuntimeError):
    """What a test throws in."""


def narrowed(model: nn.Module, x: Tensor) -> nn.Module:
    own = fxprune.prune(model.eval(), HALF, (x,), result="module")
    assert type(own) is type(model)
    return own


def observed() -> Decoder:
    """Return a decoder of mixed modes, with hooks, gradients, and a buffer that is not saved."""
    model = Decoder(config()).train()
    model.layers[1].eval()
    model.norm.weight.requires_grad_(False)
    model.register_buffer("counts", torch.arange(4), persistent=False)
    model.head.register_forward_hook(lambda *_: None)
    model.layers[0].register_forward_pre_hook(lambda *_: None)
    model.layers[0].up.register_full_backward_hook(lambda *_: None)
    model(TOKENS).sum().backward()
    return model


def held(model: nn.Module) -> dict[str, Any]:
    """Return all that a model holds: numbers and identities, attributes, configuration, hooks."""
    found: dict[str, Any] = {"modules": [(path, id(one)) for path, one in model.named_modules()]}
    for name, one in (*model.named_parameters(), *model.named_buffers()):
        grad = None if one.grad is None else (id(one.grad), one.grad.tolist())
        found[name] = (id(one), one.data_ptr(), one.tolist(), one.requires_grad, one.stride(), grad)
    kinds = (bool, int, float, str, tuple, type(None))
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name.endswith("_hooks"):
                found[f"{path}:{name}"] = [(key, id(hook)) for key, hook in value.items()]
            else:
                found[f"{path}:{name}"] = value if isinstance(value, kinds) else id(value)
    return {**found, "config": dict(vars(model.config))} if hasattr(model, "config") else found


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (narrowing, "watched"),
        (narrowing, "solved"),
        (narrowing, "sizes"),
        (narrowing, "configured"),
        (narrowing, "_fill"),
        (Proof, "fault"),
        (Proof, "same"),
    ],
)
@pytest.mark.parametrize("kind", [Stopped, KeyboardInterrupt])
def test_what_is_raised_inside_leaves_no_trace(
    owner: Any, name: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = observed()
    slim = fxprune.prune(model, HALF, (TOKENS,))
    before = held(model)

    def stop(*_: Any, **__: Any) -> None:
        raise kind("inside")

    monkeypatch.setattr(owner, name, stop)
    with pytest.raises(kind, match="inside"):
        slim.write_back(model)
    assert held(model) == before


@pytest.mark.parametrize("after", range(0, 12, 3))
def test_it_may_stop_at_any_change(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, left, narrow = observed(), after, Changes.narrow
    slim = fxprune.prune(model, HALF, (TOKENS,))
    before = held(model)

    def stopping(self: Changes, tensor: Tensor, smaller: Tensor) -> None:
        nonlocal left
        if left == 0:
            raise Stopped("inside")
        left -= 1
        narrow(self, tensor, smaller)

    monkeypatch.setattr(Changes, "narrow", stopping)
    with pytest.raises(Stopped):
        slim.write_back(model)
    assert held(model) == before


def test_a_proof_that_fails_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = observed()
    slim = fxprune.prune(model, HALF, (TOKENS,))
    before = held(model)
    monkeypatch.setattr(Proof, "fault", lambda *_: Fault(None, "it differs"))
    with pytest.raises(WriteBackError, match="it differs"):
        slim.write_back(model)
    assert held(model) == before


@contextmanager
def process_group(folder: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(os.name == "nt", reason="gloo takes no such file on Windows")
def test_it_is_trained_by_several_processes(tmp_path: Path) -> None:
    own = narrowed(Convolutions(), IMAGE).train()
    before = [p.detach().clone() for p in own.parameters()]
    with process_group(tmp_path):
        parallel = DistributedDataParallel(own)
        optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
        parallel(IMAGE).square().mean().backward()
        optimizer.step()
    pairs = zip(before, own.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_its_average_is_kept() -> None:
    own = narrowed(Convolutions(), IMAGE)
    average = AveragedModel(own, use_buffers=True)
    average.update_parameters(own)
    torch.testing.assert_close(average(IMAGE), own(IMAGE))
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(1.0)
    before = own.head.bias - 1
    average.update_parameters(own)
    torch.testing.assert_close(average.module.head.bias, before + 0.5)


def test_it_is_trained_in_mixed_precision() -> None:
    own = narrowed(Decoder(config()), TOKENS).train()
    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(own.parameters(), 0.1)
    before = own.layers[0].up.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        logits = own(TOKENS)
    assert logits.dtype is torch.bfloat16
    scaler.scale(logits.float().square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(own.layers[0].up.weight, before)


def test_its_layers_are_computed_again_for_gradients() -> None:
    own = narrowed(Decoder(config()), TOKENS).train()
    own(TOKENS).square().mean().backward()
    plain = {name: p.grad.clone() for name, p in own.named_parameters() if p.grad is not None}
    own.zero_grad()
    for layer in own.layers:
        forward = layer.forward
        layer.forward = lambda x, forward=forward: checkpoint(forward, x, use_reentrant=False)
    own(TOKENS).square().mean().backward()
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_copies_and_pickles_are_of_the_same_class() -> None:
    own, file = narrowed(Decoder(config()), TOKENS), io.BytesIO()
    torch.save(own, file)
    file.seek(0)
    for other in (copy.deepcopy(own), torch.load(file, weights_only=False)):
        assert type(other) is Decoder
        assert other.head.weight is other.embed.weight
        torch.testing.assert_close(other(TOKENS), own(TOKENS), rtol=0, atol=0)
        assert torch.equal(other.generate(TOKENS, 2), own.generate(TOKENS, 2))
