"""Try choices: score them with the caller's evaluator, each only once, and remember the scores."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import torch

from fxprune import distributed
from fxprune.allocators import Choice
from fxprune.errors import CallbackError, CheckpointError
from fxprune.files import append
from fxprune.graphs import tensors_of
from fxprune.loop.caller_functions import Evaluate, called
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.surgery import attach, kept_indices, owned, restore, shrink, zeroed
from fxprune.targets import Discovery, Selection
from fxprune.targets.blocks import masks_of


class Trials:
    """Score choices by `evaluate(module) -> float`, higher is better.

    Where every removal is exact, the candidate is the whole model with its dropped units at zero,
    which need not be built; else it is the shrunk model. `memory` is a file of one JSON line a
    score: a search that was killed reads it and resumes. Under `torch.distributed` the first
    process reads and writes it, and all know what it holds.
    """

    def __init__(self, evaluate: Evaluate, memory: Path | None = None) -> None:
        if not callable(evaluate):
            raise CallbackError(f"evaluate: a function of the module is needed, not {evaluate!r}")
        self._evaluate = evaluate
        self._memory = memory
        known = distributed.from_first(lambda: _remembered(memory) if memory is not None else {})
        self._known: dict[str, float] = known
        self._program: Program | None = None
        self._module: torch.nn.Module | None = None
        self._state: dict[str, torch.Tensor] = {}
        self._print = ""
        self.asked = 0  # how often the evaluator has been called

    def of(self, module: torch.nn.Module) -> float:
        """Return what the evaluator says of a module: a finite number."""
        module.eval()
        together = distributed.together
        value = called("evaluate", lambda: together(lambda: float(self._evaluate(module))))
        self.asked += 1
        value = distributed.mean(value)
        if not math.isfinite(value):
            raise CallbackError(f"evaluate: it returned {value}; a finite number is needed")
        return value

    def score(self, program: Program, choice: Choice) -> float:
        """Return what the evaluator says of a program of which only the choice is kept."""
        self._prepare(program)
        selected, coupling = program[Selection].targets, program[Discovery].coupling
        kept = kept_indices(program.module, coupling, choice.alive)
        masks = masks_of(selected, choice.alive, kept)
        key = self._key(kept, masks)
        if key not in self._known:
            cut = [t for t in selected if not choice.alive[t.units].all()]
            plain = not coupling.effective  # what is computed of parameters is zeroed as it is read
            exact = plain and all(target.exact for target in cut)
            plan = Plan(kept, masks=masks)
            value = self._masked(program, plan) if exact else self._shrunk(program, choice, plan)
            self._known[key] = value
            self._write(key, value)
        return self._known[key]

    def _prepare(self, program: Program) -> None:
        if self._program is not None and self._program.module is program.module:
            return
        self._program, self._module = program, None
        self._print = fingerprint(program.module)

    def _masked(self, program: Program, plan: Plan) -> float:
        if self._module is None:
            self._module = restore(owned(program.module), training=False)
            self._state = {k: v.clone() for k, v in self._module.state_dict().items()}
        parameters = dict(self._module.named_parameters(remove_duplicate=False))
        try:
            with torch.no_grad():
                for name, zero in zeroed(program.module, plan).items():
                    parameters[name].copy_(zero)
            return self.of(self._module)
        finally:
            self._module.load_state_dict(self._state)

    def _shrunk(self, program: Program, choice: Choice, plan: Plan) -> float:
        small = shrink(program.module, program[Discovery].coupling, choice.alive, plan.kept)
        whole = restore(small, training=False)
        own = dict(whole.named_parameters(remove_duplicate=False))
        attach(whole, {name: mask for name, mask in plan.masks.items() if name in own})
        return self.of(whole)

    def _key(
        self, kept: dict[str, tuple[torch.Tensor, ...]], masks: dict[str, torch.Tensor]
    ) -> str:
        digest = hashlib.sha256(self._print.encode())
        for name in sorted(kept):
            for index in kept[name]:
                digest.update(index.numpy().tobytes() + b"|")
        for name in sorted(masks):
            digest.update(name.encode() + masks[name].numpy().tobytes())
        return digest.hexdigest()

    def _write(self, key: str, value: float) -> None:
        if self._memory is not None:
            append(self._memory, json.dumps([key, value]) + "\n")


def fingerprint(module: torch.nn.Module) -> str:
    """Return a hash of the names, shapes and values of all tensors of a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(module).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        data = tensor.detach().cpu().contiguous()
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _remembered(memory: Path) -> dict[str, float]:
    if not memory.exists():
        return {}
    try:
        data = memory.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:  # the line that was being written when the search was killed
            os.truncate(memory, len(whole))
    except OSError as error:
        raise CheckpointError(f"{memory}: cannot be read: {error.strerror}") from None
    known: dict[str, float] = {}
    for number, line in enumerate(whole.splitlines()):
        try:
            key, value = json.loads(line)
            known[str(key)] = float(value)
            if not math.isfinite(value):
                raise ValueError
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise CheckpointError(
                f"{memory}: line {number + 1} is no score; delete the file to search again"
            ) from None
    return known
