"""Training and evaluation, module by module: which mode each is in, and what `.train()` sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from fxprune.capture.untouched import Held

Marks = Mapping[str, bool]  # a module's path -> its mode, where it differs from the one above it


def marks_of(model: nn.Module) -> dict[str, bool]:
    """Return the modes of all modules: the root's, and every one that differs from its owner's.

    >>> marks_of(nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout()).eval()))
    {'': True, '1': False}
    """
    marks: dict[str, bool] = {}
    above: dict[str, bool] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        above[path] = module.training
        if not path or module.training is not above[path.rpartition(".")[0]]:
            marks[path] = module.training
    return marks


def put(module: nn.Module, marks: Marks) -> None:
    """Set the mode of every module as `marks` say: that of the nearest path above it."""
    above: dict[str, bool] = {}
    for path, one in module.named_modules(remove_duplicate=False):
        above[path] = marks.get(path, above.get(path.rpartition(".")[0], False))
        one.training = above[path]


def put_training(module: nn.Module, marks: Marks) -> None:
    """Put a module in training mode, all of it or, where `marks` are of training, as they say."""
    module.train()
    if marks.get("", False):
        put(module, marks)


@dataclass(frozen=True)
class Modes:
    """Hold the modes that a model came in, and those that its own `.train()` and `.eval()` set.

    The latter only where they are not the same for all modules, as where a norm is held frozen.
    """

    given: Marks = field(default_factory=lambda: {"": False})
    after: Mapping[bool, Marks] = field(default_factory=dict)


@contextmanager
def evaluated(model: nn.Module) -> Iterator[Modes]:
    """Hold a model in evaluation mode, and put every module's own mode back after.

    Where classes have a `train` or `eval` of their own, these are called; but where that fails, or
    changes weights, as one that merges adapters does, the modes alone are set.
    """
    given, own = marks_of(model), [one for one in model.modules() if _has_own(one)]
    held = Held(model) if own else Held()
    after = _called(model, own) if own else {}
    if after is None:
        held.put_back()
    try:
        if not own or after is None:
            put(model, {"": False})
        yield Modes(given, after or {})
    finally:
        held.put_back()
        put(model, given)


def _has_own(module: nn.Module) -> bool:
    """Tell whether a module sets modes in a way of its own."""
    kind, ways = type(module), ("train", "eval")
    return any(n in vars(module) or getattr(kind, n) is not getattr(nn.Module, n) for n in ways)


def _called(model: nn.Module, own: Sequence[nn.Module]) -> dict[bool, Marks] | None:
    """Call `train` and then `eval`: return what they set, or nothing where they do more."""
    tensors = [t for one in own for t in (*one._parameters.values(), *one._buffers.values())]
    before = [(one, one.detach().clone()) for one in tensors if one is not None]
    after: dict[bool, Marks] = {}
    try:
        for mode, call in ((True, model.train), (False, model.eval)):
            call()
            if (marks := marks_of(model)) != {"": mode}:
                after[mode] = marks
    except Exception:  # such as the module of an exported program, whose graph is what it is
        return None
    changed = [(now, was) for now, was in before if not torch.equal(now, was)]
    with torch.no_grad():
        for now, was in changed:
            now.data.copy_(was)
    return None if changed else after
