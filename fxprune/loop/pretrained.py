"""Keep a pruned model of the user's own class in a folder, and build it again from there.

The folder holds `fxprune.json` (the class, its configuration, a digest), `plan.json` with
`plan.safetensors`, `model.safetensors` and the report: JSON and numbers, nothing that runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fxprune.contexts import quiet
from fxprune.errors import FileError, FxpruneError, InputError, first_line, root_cause
from fxprune.files import atomic_write, make_folder
from fxprune.files.digest import digest
from fxprune.files.shards import read_json
from fxprune.graphs import tensors_of
from fxprune.plan import Plan
from fxprune.report import Report

if TYPE_CHECKING:  # what narrows models loads the exporter: only when it is called
    from fxprune.surgery.own_class.places import Place

FORMAT = "fxprune-model-1"
LIBRARY = "transformers"  # whose classes are built by name; of any other the caller gives a model
Build = nn.Module | Callable[[], nn.Module]


def save_pretrained(
    model: nn.Module, folder: str | os.PathLike[str], plan: Plan | None = None
) -> None:
    """Write a pruned model of its own class into a folder, for `load_pretrained`.

    `model` is what `prune(…, result="module")` returned, or what was written back: then `plan` is
    that of the pruned module. Its tensors are written as they are now, in their types. Files of an
    earlier model in the folder are replaced. Where the class is one of transformers it is built
    again, without numbers, and compared with the model by name and shape before anything is
    written. Raises InputError where the plan is not that of the model, WriteBackError where the
    class cannot be narrowed to it, and FileError where the folder cannot be written.
    """
    plan = plan if plan is not None else vars(model).get("plan")
    if not isinstance(plan, Plan):
        raise InputError(
            f"save_pretrained: this {type(model).__name__} has no plan; give that of the pruned "
            "module, as plan=slim.plan"
        )
    _check_plan(plan, model)
    tensors, tied = _stored(model)
    facts: dict[str, Any] = {"format": FORMAT, "class": _class_name(model), "plan": True}
    if _of_library(model):
        facts |= _configured(model, plan)
    facts |= {"training": model.training, "tied": tied, "digest": digest(tensors)}
    place, report = Path(folder), vars(model).get("report")
    make_folder(place)
    if not place.is_dir():
        raise FileError(f"{place}: is not a folder; name another")
    with ExitStack() as stack:
        weights = stack.enter_context(atomic_write(place / "model.safetensors"))
        described = stack.enter_context(atomic_write(place / "fxprune.json"))
        save_file(tensors, weights, metadata={"format": "pt"})
        described.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        if isinstance(report, Report):
            told = stack.enter_context(atomic_write(place / "report.json"))
            told.write_text(report.to_json(), encoding="utf-8")
        plan.save(place / "plan.json")


def load_pretrained(
    folder: str | os.PathLike[str], model: Build | None = None, inputs: Any = None
) -> nn.Module:
    """Build the model that `save_pretrained` wrote: its class, narrowed, with the saved numbers.

    A class of transformers is built by its name and configuration. Of any other `model` is a class
    or a function without arguments that builds the model as it was before it was pruned, or such a
    model, which is copied: nothing is imported because a file says so. What the plan makes of it is
    proven as `apply` does. `inputs` are example inputs, where the plan does not know how they look.
    Raises FileError for a folder that `save_pretrained` did not write, or that is damaged, and
    InputError where `model` is missing or is another one.
    """
    from fxprune.surgery.own_class import apply

    place = Path(folder)
    facts = read_json(place / "fxprune.json")
    if facts.get("format") != FORMAT:
        raise FileError(f"{place}: not a model that fxprune wrote; name another folder")
    try:
        tensors = load_file(place / "model.safetensors")
    except Exception as error:  # safetensors raises what a damaged header makes it stumble on
        raise FileError(f"{place / 'model.safetensors'}: {root_cause(error, 200)}") from error
    if facts.get("digest") != digest(tensors):
        raise FileError(f"{place}: model.safetensors is not the one of fxprune.json; save it again")
    own = _original(facts, place, model)
    if facts.get("plan") is not False or model is not None:
        plan = Plan.load(place / "plan.json")
        apply(plan, own, inputs)
        if not hasattr(own, "plan"):
            setattr(own, "plan", plan)  # noqa: B010
    _fill(own, tensors, facts, place)
    if (place / "report.json").exists() and not hasattr(own, "report"):
        text = (place / "report.json").read_text(encoding="utf-8")
        try:
            setattr(own, "report", Report.from_json(text))  # noqa: B010
        except Exception as error:  # a text that is none of ours may be anything
            raise FileError(f"{place / 'report.json'}: {root_cause(error, 200)}") from error
    return own.train(facts.get("training") is True)


def _check_plan(plan: Plan, model: nn.Module) -> None:
    """Raise InputError where a model does not have the widths that a plan leaves."""
    own = tensors_of(model)
    for name, indices in plan.kept.items():
        wanted = tuple(len(index) for index in indices)
        if name not in own or tuple(own[name].shape) != wanted:
            found = f"is of {tuple(own[name].shape)}" if name in own else "is not in the model"
            raise InputError(
                f"save_pretrained: {name} {found}, and the plan leaves {wanted}; give the model "
                "that this plan narrowed (of a part, save the part)"
            )


def _stored(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return a state dict in which every tensor is once, and what its other names stand for."""
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"save_pretrained: {name} is no tensor; only tensors are written")
        if (known := first.setdefault(id(tensor), name)) != name:
            tied[name] = known
        else:
            tensors[name] = tensor.detach().clone().contiguous()
    return tensors, tied


def _class_name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _of_library(model: nn.Module) -> bool:
    """Tell a model whose class the library offers by name and builds of a configuration."""
    library = sys.modules.get(LIBRARY)
    kind = type(model)
    offered = kind.__module__.partition(".")[0] == LIBRARY
    return offered and getattr(library, kind.__name__, None) is kind and hasattr(model, "config")


def _configured(model: nn.Module, plan: Plan) -> dict[str, Any]:
    """Return the configuration, with which the class is built: narrowed already, or to narrow."""
    from fxprune.surgery.own_class import apply
    from fxprune.surgery.own_class.leaf_sizes import holding

    for narrowed in (True, False):
        before = {} if narrowed else _originals(model, plan)
        with holding(before):
            config: Any = deepcopy(model.config)
        facts = {"config": json.loads(config.to_json_string(use_diff=False)), "plan": not narrowed}
        with torch.device("meta"):
            twin = _built(type(model), facts["config"])
        if not narrowed:
            apply(plan, twin)
        if (apart := _apart(model, twin)) is None:
            return facts
    raise InputError(
        f"save_pretrained: its configuration does not build the model that was pruned: {apart}; "
        'give what prune(…, result="module") returned'
    )


def _originals(model: nn.Module, plan: Plan) -> dict[Place, Any]:
    """Return the places of a configuration that pruning changed, and what stood there before."""
    from fxprune.surgery.own_class.places import placed_at

    found: dict[Place, Any] = {}
    for name, value in plan.settings.items():
        if (place := placed_at(model, name)) is not None:
            found[place] = value
    return found


def settings(before: nn.Module, after: nn.Module) -> dict[str, int | None]:
    """Return what stood before in all places of configurations that are others afterwards."""
    from fxprune.surgery.own_class.places import places

    old, new = ({p.name: p.value for p in places(m) if not p.module} for m in (before, after))
    return {name: old.get(name) for name in old | new if old.get(name) != new.get(name)}


def _apart(model: nn.Module, twin: nn.Module) -> str | None:
    """Say where two models have tensors of other names or shapes."""
    mine, theirs = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (model, twin))
    for name in mine | theirs:
        if mine.get(name) != theirs.get(name):
            return f"{name} is of {mine.get(name)}, and there of {theirs.get(name)}"
    return None


def _built(kind: Any, config: Mapping[str, Any]) -> nn.Module:
    with quiet(), quiet("stdout"), torch.random.fork_rng(devices=[]):
        return cast(nn.Module, kind(kind.config_class.from_dict(dict(config))))


def _original(facts: Mapping[str, Any], place: Path, model: Build | None) -> nn.Module:
    """Return a model to narrow: what the caller gives, or a class of the library."""
    name = str(facts.get("class"))
    if model is not None:
        made = deepcopy(model) if isinstance(model, nn.Module) else model()
        if not isinstance(made, nn.Module):
            raise InputError(f"load_pretrained: model= gives a {type(made).__name__}, no module")
        return made
    if not isinstance(facts.get("config"), dict):
        raise InputError(
            f"load_pretrained: {place} holds a {name}, which is not built because a file says so; "
            "give model=, a function that builds it as it was before it was pruned"
        )
    try:
        library = import_module(LIBRARY)
    except ImportError as error:
        raise FileError(f"{place}: needs {LIBRARY}, which is not installed") from error
    kind = getattr(library, name.rpartition(".")[2], None)
    base = getattr(library, "PreTrainedModel", None)
    if not (isinstance(kind, type) and isinstance(base, type) and issubclass(kind, base)):
        raise FileError(f"{place}: this {LIBRARY} has no model {name}; give model=")
    try:
        return _built(kind, facts["config"])
    except Exception as error:  # a configuration that is not one of the class may be anything
        raise FileError(f"{place}: {name} cannot be built: {root_cause(error, 200)}") from error


def _fill(
    own: nn.Module, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], place: Path
) -> None:
    """Put the saved numbers into a narrowed model, in their types; ties stay what they are."""
    try:
        state = {**tensors, **{name: tensors[to] for name, to in dict(facts["tied"]).items()}}
        for name, tensor in own.state_dict(keep_vars=True).items():
            if name in state and tensor.dtype != state[name].dtype:
                tensor.data = tensor.data.to(state[name].dtype)
        own.load_state_dict(state, strict=True)
    except FxpruneError:
        raise
    except Exception as error:  # other names or shapes, of a class that is another by now
        raise FileError(f"{place}: its numbers do not fit: {first_line(error)}") from error
