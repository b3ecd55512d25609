"""Let metrics learn while the caller's own loop fine-tunes: through the gradients it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import fx, nn

from fxprune import ranks
from fxprune.blocks import BlockTarget, Grid
from fxprune.masks import restore
from fxprune.metrics.registry import Learned, Learner, Seen
from fxprune.plan import Plan
from fxprune.targets import Target


@contextmanager
def watching(
    learners: Sequence[Learner],
    graph: fx.GraphModule,
    module: nn.Module,
    learned: Learned,
    targets: Sequence[Target] = (),
) -> Iterator[None]:
    """Show each learner every gradient of the parameters it watches while the body runs.

    It sees what each backward pass brings by itself, whatever the caller accumulates, and into
    which blocks a parameter is cut where those are `targets`. At the end what was learned is
    averaged over the processes of a job, as they do with gradients: each has seen those of its own
    share of the data.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    grids = {t.tensor: t.grid for t in targets if isinstance(t, BlockTarget)}
    handles = [
        parameters[name].register_hook(
            _hook(learner, name, parameters[name], grids.get(name), learned)
        )
        for learner in learners
        for name in dict.fromkeys(learner.watched(graph))
        if name in parameters and parameters[name].requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if learners:
        ranks.average(learned)


def _hook(
    learner: Learner, name: str, parameter: nn.Parameter, grid: Grid | None, learned: Learned
) -> Callable[[torch.Tensor], torch.Tensor | None]:
    def observe(gradient: torch.Tensor) -> torch.Tensor | None:
        restore(parameter)  # a mask that lets gradients through has hidden the weights till now
        with torch.no_grad():
            return learner.observe(Seen(name, parameter, gradient, grid), learned)

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
                keep = torch.zeros(tensors[name].shape, dtype=torch.bool)
                places = torch.meshgrid(*plan.kept[name], indexing="ij")
                keep[places] = plan.masks.get(name, torch.tensor(True))
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
