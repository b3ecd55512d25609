"""Narrow a model of the user's own class in place, as a plan says: proven, or left as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from fxprune.capture import capture
from fxprune.errors import WriteBackError
from fxprune.graphs import attribute, tensors_of
from fxprune.guards import Mask
from fxprune.plan import Plan
from fxprune.rules import Coupling, Kept, TensorGuard
from fxprune.signature import Signature
from fxprune.surgery.own_class.blame import refusal
from fxprune.surgery.own_class.building import configured, rebuilt
from fxprune.surgery.own_class.leaf_sizes import sizes
from fxprune.surgery.own_class.membership import alive_of
from fxprune.surgery.own_class.places import Place, places
from fxprune.surgery.own_class.proof import Fault, Proof
from fxprune.surgery.own_class.solving import Solution, solved
from fxprune.surgery.own_class.traced import planted
from fxprune.surgery.own_class.undoing import Changes
from fxprune.surgery.own_class.wanted import Wanted, aligned, wanted
from fxprune.surgery.own_class.watching import watched
from fxprune.surgery.shrinking import shrink
from fxprune.targets import couple


@dataclass(frozen=True)
class Narrowed:
    """Hold which integers of a model were set, by their names in it, and what is to be told."""

    integers: Mapping[str, int]
    notes: tuple[str, ...] = ()


def narrow(
    model: nn.Module,
    plan: Plan,
    signature: Signature,
    like: nn.Module | None = None,
) -> Narrowed:
    """Narrow a model in place to what a plan keeps; it takes the numbers of `like`, if given.

    What is captured of it afterwards equals the smaller graph, operator by operator, and so do its
    numbers on the examples and at another batch size; else all is put back, and WriteBackError
    says where the difference is, and which targets to leave out. Raises InputError where the plan
    is not one of this model.
    """
    work = _Narrowing.of(model, plan, signature)
    changes = Changes()
    try:
        done = work.run(changes)
        if like is not None:
            _fill(model, like, changes)
            work.proof.same(like, model)
        work.configure(changes)
    except BaseException:
        changes.back()
        raise
    return done


@dataclass
class _Narrowing:
    """Hold a model with its graph, the smaller graph, and what the latter asks of its integers."""

    model: nn.Module
    module: fx.GraphModule
    coupling: Coupling
    alive: Mask
    proof: Proof
    places: list[Place] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module, plan: Plan, signature: Signature) -> _Narrowing:
        program = capture(model, (signature.args, signature.kwargs), outputs=signature.outputs)
        module = program.module
        coupling = couple(module)
        alive = alive_of(module, coupling, plan)
        smaller = shrink(module, coupling, alive)
        kept = Kept(coupling.guards, alive)
        proof = Proof(module.graph, coupling, kept, smaller, program.signature)
        return cls(model, module, coupling, alive, proof, places(model))

    def run(self, changes: Changes) -> Narrowed:
        """Set tensors and integers until the proof holds; raises WriteBackError where none does."""
        solution = self._asked()
        smaller, own = tensors_of(self.proof.smaller), tensors_of(self.model)
        done: set[int] = set()
        for name, tensor in own.items():
            cut = smaller.get(name, tensor)
            if id(tensor) not in done and not _same(cut, tensor):
                done.add(id(tensor))
                changes.narrow(tensor, cut.clone())
        values = {self.places[k]: v for k, v in solution.values.items()}
        values |= self._leaves(values, own, done)
        fault = self._put(changes, values)
        if fault is not None and (more := self._guessed(solution)):
            values = {self.places[k]: v for k, v in solution.values.items()} | more
            values |= self._leaves(values, own, done)
            fault = self._put(changes, values)
        if fault is not None:
            raise refusal(self.module, self.coupling, self.alive, fault, solution)
        return Narrowed({place.name: value for place, value in values.items()})

    def _put(self, changes: Changes, values: Mapping[Place, int]) -> Fault | None:
        """Set integers; where the proof does not hold then, put them back and return the fault."""
        mark = changes.mark
        for place, value in values.items():
            changes.put(place, value)
        fault = self.proof.fault(self.model)
        if fault is not None:
            changes.back(mark)
        return fault

    def _asked(self) -> Solution:
        with planted(self.places):
            calls, _ = watched(self.model, self.proof.signature.args, self.proof.signature.kwargs)
        pairs = self.proof.calls
        pairs.update(aligned(self.module.graph, calls))
        return solved(self.places, wanted(pairs, self.proof.smaller.graph, calls))

    def _guessed(self, solution: Solution) -> dict[Place, int]:
        """Return the integers of the modules around a constant that it could come from."""
        found: dict[Place, int] = {}
        by_path: dict[str, list[Place]] = {}
        for place in self.places:
            if place.module:
                by_path.setdefault(place.path, []).append(place)
        for one in solution.free:
            for path in reversed(_paths(one)):
                equal = [p for p in by_path.get(path, ()) if p.value == one.before]
                if equal:
                    found |= dict.fromkeys(equal, one.value)
                    break
        told = {self.places[k] for k in solution.values}
        return {place: value for place, value in found.items() if place not in told}

    def _leaves(
        self, known: Mapping[Place, int], own: Mapping[str, torch.Tensor], narrowed: set[int]
    ) -> dict[Place, int]:
        """Return the sizes of the modules that hold what was narrowed."""
        changed = self._changed_sizes()
        held: dict[int, list[Place]] = {}
        for place in self.places:
            if place.module:
                held.setdefault(id(place.holder), []).append(place)
        found: dict[Place, int] = {}
        for path, module in self.model.named_modules():
            prefix = f"{path}." if path else ""
            names = [*module._parameters, *module._buffers]
            mine = [prefix + n for n in names if id(own.get(prefix + n)) in narrowed]
            listed = held.get(id(module), [])
            if mine and listed:
                changes: dict[int, set[int]] = {}
                for name in mine:
                    for old, new in changed.get(name, ()):
                        changes.setdefault(old, set()).add(new)
                told = {p: known[p] for p in listed if p in known}
                found |= sizes(module, listed, changes, told)
        return found

    def configure(self, changes: Changes) -> None:
        """Let the model's configuration say what it is, where its class, built so, is the same."""
        sizes: dict[int, set[int]] = {}
        for pairs in self._changed_sizes().values():
            for old, new in pairs:
                if old != new:
                    sizes.setdefault(old, set()).add(new)
        for old, new in changes.integers():
            sizes.setdefault(old, set()).add(new)
        if any(tensor.is_meta for tensor in tensors_of(self.model).values()):
            return
        for found in configured(self.model, sizes):
            if self._builds(found):
                for place, value in found.items():
                    changes.put(place, value)
                return

    def _builds(self, found: Mapping[Place, int]) -> bool:
        """Tell whether the class, built with some integers, is the narrowed model."""
        try:
            twin = rebuilt(self.model, found)
            if twin is None or self.proof.fault(twin) is not None:
                return False
            return self.proof.equal(self.model, twin)
        except Exception:  # such as a state dict that is another
            return False

    def _changed_sizes(self) -> dict[str, set[tuple[int, int]]]:
        """Return by tensor the sizes, before and after, of all axes at the operators reading it."""
        found: dict[str, set[tuple[int, int]]] = {}
        by_id: dict[int, list[str]] = {}
        for name, tensor in tensors_of(self.module).items():
            by_id.setdefault(id(tensor), []).append(name)
        for node in self.module.graph.find_nodes(op="get_attr"):
            touched = [node, *node.users, *(n for u in node.users for n in u.all_input_nodes)]
            pairs = {
                (len(g), int(self.proof.kept.mask(g).sum()))
                for one in touched
                if isinstance(value := self.coupling.values.get(one), TensorGuard)
                for g in value.dims
            }
            for name in by_id.get(id(attribute(self.module, str(node.target))), ()):
                found.setdefault(name, set()).update(pairs)
        return found


def _same(cut: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Tell a tensor that is not cut; without numbers, by its shape."""
    return cut.shape == tensor.shape and (tensor.is_meta or torch.equal(cut, tensor))


def _paths(one: Wanted) -> Sequence[str]:
    return [str(path) for path, _ in (one.node.meta.get("nn_module_stack") or {}).values()]


def _fill(model: nn.Module, like: nn.Module, changes: Changes) -> None:
    """Put the tensors of the pruned module into a narrowed model, each once."""
    done: set[int] = set()
    given = tensors_of(like)
    for name, tensor in tensors_of(model).items():
        if name not in given or id(tensor) in done:
            continue
        done.add(id(tensor))
        if given[name].shape != tensor.shape:
            raise WriteBackError(
                f"write_back: {name} is of {tuple(tensor.shape)}, and the pruned module has "
                f"{tuple(given[name].shape)}; the model was left as it was. Give the model that "
                "was pruned"
            )
        changes.narrow(tensor, given[name].detach().clone().to(tensor.device))
