"""What a caller gives a metric beside the weights: batches to run, and a loss to differentiate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature as signature_of
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.utils import _pytree as pytree

from fxprune import distributed
from fxprune.errors import CalibrationError, SpecError
from fxprune.graphs import attribute, emptied, set_tensor, tensors_of
from fxprune.signature import Signature

Loss = Callable[[torch.nn.Module, Any], torch.Tensor]
Sums = Sequence[NDArray[np.float64]]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Hold an iterable of batches and a loss, each perhaps absent.

    A batch is a tensor, a tuple or a dict; labels may ride along. Raises CalibrationError where
    what was given cannot be either.
    """

    batches: Iterable[Any] | None = None
    loss: Loss | None = None

    def __post_init__(self) -> None:
        given = self.batches
        if given is not None and (
            isinstance(given, (torch.Tensor, Mapping, str)) or not hasattr(given, "__iter__")
        ):
            raise CalibrationError(
                f"calibrate: an iterable of batches is needed, not one {type(given).__name__}; "
                "give a list of batches or a data loader"
            )
        if self.loss is not None and not callable(self.loss):
            raise CalibrationError(
                f"loss: a function of the module and a batch is needed, not {self.loss!r}"
            )

    def require(self, metric: str, needs: str) -> None:
        """Raise SpecError where a metric lacks data that it needs, saying which argument."""
        wanted = [
            ("calibrate", self.batches, "batches" in needs),
            ("loss", self.loss, "loss" in needs),
        ]
        missing = [name for name, given, asked in wanted if asked and given is None]
        if missing:
            call = ", ".join(f"{name}=…" for name in missing)
            raise SpecError(
                f"metric: {metric} needs {needs}, and {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing; call prune(…, {call})"
            )

    def given_loss(self) -> Loss:
        """Return the loss; raises SpecError where none was given."""
        if self.loss is None:
            raise SpecError("loss: none was given, and the metric needs one; call prune(…, loss=…)")
        return self.loss

    def each(self) -> Iterator[tuple[int, Any]]:
        """Yield the batches with their numbers; raises CalibrationError where there are none."""
        number = -1
        for number, batch in enumerate(self.batches or ()):
            yield number, batch
        if number < 0:
            raise CalibrationError(
                "calibrate: there is no batch in it; give at least one (an iterator serves once)"
            )


def streamed(given: Iterable[T], look: Callable[[T], None], sums: Sums = ()) -> tuple[Sums, float]:
    """Show each of what is given to a function that adds to `sums`; return those, and how many.

    Both are over all processes of a job, each of which is given its own.
    """
    count = np.zeros(1)

    def stream() -> None:
        for one in given:
            look(one)
            count[0] += 1

    distributed.together(stream)
    *total, many = distributed.totals([*sums, count])
    return total, float(many[0])


def leaves_of(module: fx.GraphModule, signature: Signature, number: int, batch: Any) -> list[Any]:
    """Return what the model takes of a batch, one leaf for each of its graph's inputs.

    Of a tuple it takes the first, of a dict those with its names; the rest is for the loss. Tensors
    are copied: a forward may write to them.
    """
    where = f"calibrate: batch {number}"
    args, kwargs = taken(module, signature, batch, where)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    if spec != pytree.tree_structure((signature.args, signature.kwargs)):
        raise CalibrationError(
            f"{where}: its inputs are not nested as the example inputs are; make them alike"
        )
    return [one.clone() if isinstance(one, torch.Tensor) else one for one in leaves]


def taken(
    module: fx.GraphModule, signature: Signature, batch: Any, where: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that a batch holds for a module; raises CalibrationError."""
    names = _names(module)[: len(signature.args)]
    if isinstance(batch, Mapping):
        wanted = [*names, *signature.kwargs]
        missing = [name for name in wanted if name not in batch]
        if missing:
            raise CalibrationError(
                f"{where}: has no {', '.join(missing)}; its keys are {', '.join(map(str, batch))}"
            )
        return tuple(batch[n] for n in names), {n: batch[n] for n in signature.kwargs}
    given = (batch,) if isinstance(batch, torch.Tensor) else batch
    if not isinstance(given, (tuple, list)):
        raise CalibrationError(
            f"{where}: a tensor, a tuple or a dict is needed, not {type(batch).__name__}"
        )
    many, both = len(signature.args), len(signature.args) + len(signature.kwargs)
    if len(given) < both:
        raise CalibrationError(f"{where}: holds {len(given)} values, and the model takes {both}")
    return tuple(given[:many]), dict(zip(signature.kwargs, given[many:both], strict=True))


def _names(module: fx.GraphModule) -> list[str]:
    """Return the names of the forward's arguments, from where its code is made: it may be lazy."""
    info = getattr(module.graph._codegen, "pytree_info", None)
    return [*info.orig_args] if info is not None else [*signature_of(module.forward).parameters]


def detached(module: fx.GraphModule, *, gradients: bool) -> fx.GraphModule:
    """Return a copy of a captured module that shares nothing which running it could change.

    With `gradients` its parameters are copies that take them; without, they are only read.
    """
    copy, made = emptied(module), dict[int, torch.Tensor]()
    for name, tensor in tensors_of(module).items():
        if id(tensor) not in made:
            if isinstance(tensor, torch.nn.Parameter):
                own = tensor.detach().clone() if gradients else tensor.detach()
                free = gradients and own.is_floating_point()
                made[id(tensor)] = torch.nn.Parameter(own, requires_grad=free)
            else:
                made[id(tensor)] = tensor.detach().clone()
        set_tensor(copy, name, made[id(tensor)])
    for node in module.graph.find_nodes(op="get_attr"):
        if attribute(copy, str(node.target)) is None:
            set_tensor(copy, str(node.target), attribute(module, str(node.target)))
    copy.recompile()
    return copy.eval()
