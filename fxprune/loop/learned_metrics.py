"""Let metrics learn while the caller's own loop fine-tunes: through the gradients it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from types import MappingProxyType

import torch
from torch import fx, nn

from fxprune import distributed
from fxprune.errors import SpecError
from fxprune.metrics import Learner
from fxprune.metrics.registry import Learned, Seen
from fxprune.plan import Plan
from fxprune.spec import Spec
from fxprune.surgery.masks import restore
from fxprune.targets import BlockTarget, Grid, Target


@contextmanager
def watching(
    learners: Sequence[Learner],
    graph: fx.GraphModule,
    module: nn.Module,
    learned: Learned,
    targets: Sequence[Target] = (),
    computed: Mapping[fx.Node, str] = MappingProxyType({}),
) -> Iterator[None]:
    """Show each learner every gradient of the parameters it watches while the body runs.

    It sees what each backward pass brings by itself, whatever the caller accumulates, and into
    which blocks a parameter is cut where those are `targets`. In place of parameters of the names
    in `computed` it sees what those nodes of the captured graph compute of them. At the end what
    was learned is averaged over the processes of a job, as they do with gradients: each has seen
    those of its own share of the data.
    """
    from fxprune.loop.weight_taps import tapped  # late: it loads the compiler of torch

    parameters = dict(module.named_parameters(remove_duplicate=False))
    grids = {t.tensor: t.grid for t in targets if isinstance(t, BlockTarget)}
    watchers: dict[str, list[Learner]] = {}
    for learner in learners:
        for name in dict.fromkeys(learner.watched(graph)):
            if name in parameters and parameters[name].requires_grad:
                watchers.setdefault(name, []).append(learner)
    read = set(computed.values())
    handles = [
        parameters[name].register_hook(
            _hook(learner, name, parameters[name], grids.get(name), learned)
        )
        for name, watching in watchers.items()
        for learner in watching
        if name not in read
    ]
    observers = {
        name: _observer(watching, name, parameters[name], grids.get(name), learned)
        for name, watching in watchers.items()
        if name in read
    }
    try:
        with tapped(module, computed, observers):
            yield
    finally:
        for handle in handles:
            handle.remove()
    if learners:
        distributed.average(learned)


def _hook(
    learner: Learner, name: str, parameter: nn.Parameter, grid: Grid | None, learned: Learned
) -> Callable[[torch.Tensor], torch.Tensor | None]:
    def observe(gradient: torch.Tensor) -> torch.Tensor | None:
        restore(parameter)  # a mask that lets gradients through has hidden the weights until now
        with torch.no_grad():
            return learner.observe(Seen(name, parameter, gradient, grid), learned)

    return observe


def _observer(
    learners: Sequence[Learner],
    name: str,
    parameter: nn.Parameter,
    grid: Grid | None,
    learned: Learned,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None]:
    """Return a hook for a weight that is computed of a parameter, whose steps are those of that."""

    def observe(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        seen = nn.Parameter(weight, requires_grad=False)
        seen.grad = parameter.grad
        with torch.no_grad():
            for learner in learners:
                changed = learner.observe(Seen(name, seen, gradient, grid), learned)
                gradient = gradient if changed is None else changed
        return gradient

    return observe


def settled(
    learners: Sequence[Learner],
    graph: fx.GraphModule,
    tensors: Mapping[str, torch.Tensor],
    plan: Plan,
    learned: Learned,
) -> None:
    """Tell each learner what would be kept now of every parameter it watches."""
    for learner in learners:
        for name in dict.fromkeys(learner.watched(graph)):
            if name in tensors and name in plan.kept:
                device = tensors[name].device
                keep = torch.zeros(tensors[name].shape, dtype=torch.bool, device=device)
                axes = (index.to(device) for index in plan.kept[name])
                places = torch.meshgrid(*axes, indexing="ij")
                keep[places] = plan.masks[name].to(device) if name in plan.masks else True
                with torch.no_grad():
                    learner.settle(name, tensors[name].detach(), keep, learned)


def cut(learned: Learned, kept: Mapping[str, tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
    """Return what was learned, cut like the parameters that it is about."""
    return {
        key: narrowed(tensor, kept.get(key.partition(":")[2], ()))
        for key, tensor in learned.items()
    }


def narrowed(tensor: torch.Tensor, axes: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return what is kept of a tensor: the indices of each of its leading axes."""
    for dim, index in enumerate(axes[: tensor.ndim]):
        if len(index) != tensor.shape[dim]:
            tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def learners(spec: Spec) -> list[Learner]:
    """Return the metrics that learn, one of a kind.

    Raises SpecError where two of a kind differ in what they learn: they would learn it from the
    same weights. A reduction is no part of that, nor is a normalisation.
    """
    named = [("metric", spec.metric)]
    named += [(f"{spec.where(k)}.metric", t.metric) for k, t in enumerate(spec.target) if t.metric]
    found: dict[type, tuple[str, Learner]] = {}
    for where, one in named:
        made = one.made(where)
        if made.needs != "training" or not isinstance(made, Learner):
            continue
        earlier, learner = found.setdefault(type(made), (where, made))
        for option in fields(made):  # type: ignore[arg-type]
            mine, theirs = (getattr(each, option.name) for each in (made, learner))
            if option.name != "reduction" and mine != theirs:
                raise SpecError(
                    f"{where}: {one.name} with {option.name}={mine} would learn from the same "
                    f"weights as {earlier} with {option.name}={theirs}; give both the same "
                    f"{option.name}"
                )
    return [learner for _, learner in found.values()]
