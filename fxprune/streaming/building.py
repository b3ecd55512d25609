"""Build the model of a checkpoint on the meta device: its shapes, and none of its numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxprune.errors import FileError, FxpruneError, InputError, root_cause
from fxprune.files.shards import Shards, read_json
from fxprune.graphs import tensors_of

CONFIG = "config.json"
Build: TypeAlias = Callable[..., nn.Module]  # given the table of config.json, if it takes anything
META = torch.device("meta")


def built(shards: Shards, build: Build | nn.Module | None) -> tuple[nn.Module, dict[str, str]]:
    """Return a model on the meta device, and the names of those tensors that are stored by others.

    It has the type of numbers that the checkpoint has. `build` is called there, with the table of
    `config.json` if it needs an argument; without it the class that `config.json` names is taken
    from transformers, which may store tensors by other names. Raises InputError or FileError.
    """
    if isinstance(build, nn.Module):
        return _typed(_bare(build), shards), {}
    with META:
        model = _from_config(shards.folder) if build is None else _called(build, shards.folder)
    model = _typed(model.to(META), shards)
    return model, _renamed(model) if build is None else {}


def on_meta(inputs: Any, model: nn.Module) -> Any:
    """Return example inputs on the meta device, numbers of the type that the model has."""
    held = [one.dtype for one in tensors_of(model).values() if one.is_floating_point()]

    def moved(leaf: torch.Tensor) -> torch.Tensor:
        if leaf.is_floating_point() and len(set(held)) == 1:
            leaf = leaf.to(held[0])
        return leaf.to(META)

    return pytree.tree_map_only(torch.Tensor, moved, inputs)


def _bare(model: nn.Module) -> nn.Module:
    if not all(tensor.is_meta for tensor in tensors_of(model).values()):
        raise InputError(
            'model: it has weights of its own; build it under torch.device("meta"), or give the '
            "function that builds it"
        )
    return model


def _called(build: Build, folder: Path) -> nn.Module:
    name = getattr(build, "__qualname__", type(build).__qualname__)
    given = [read_json(folder / CONFIG)] if _takes_config(build) else []
    try:
        model = build(*given)
    except FxpruneError:
        raise
    except Exception as error:  # it is the caller's own
        raise InputError(f"model: {name} raised {root_cause(error, 200)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {name} must return a torch.nn.Module, not {type(model).__name__}")
    return model


def _takes_config(build: Build) -> bool:
    """Tell whether a function needs an argument."""
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # of what is not written in Python
        return False
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(one.kind in by_place and one.default is one.empty for one in parameters)


def _from_config(folder: Path) -> nn.Module:
    """Return the model of the class that `config.json` names, without its numbers."""
    named: Mapping[str, Any] = read_json(folder / CONFIG)
    classes = named.get("architectures")
    if not (isinstance(classes, list) and classes and isinstance(classes[0], str)):
        raise FileError(
            f"{folder / CONFIG}: names no class under architectures; give the function that builds "
            "the model (--model module:function)"
        )
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"model: {classes[0]} of {CONFIG} needs transformers, which is not installed; install "
            "it, or give the function that builds the model (--model module:function)"
        ) from error
    kind = getattr(transformers, classes[0], None)
    if kind is None:
        raise InputError(
            f"model: transformers {transformers.__version__} has no class {classes[0]}, which "
            f"{CONFIG} names; give the function that builds the model (--model module:function)"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder))
        config.use_cache = False  # a cache is no part of what is pruned
        model: nn.Module = kind(config)
    except Exception as error:  # it raises what it likes
        raise InputError(
            f"model: {classes[0]} cannot be built of {folder / CONFIG}: {root_cause(error, 200)}"
        ) from error
    return model


def _renamed(model: nn.Module) -> dict[str, str]:
    """Return the names that transformers stores tensors by, where these are the same tensors.

    It converts what it saves: what it merges or splits is not found here, and so not stored.
    """
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # earlier versions convert nothing
        return {}
    state = model.state_dict(keep_vars=True)
    names = {id(tensor): name for name, tensor in state.items()}
    try:
        saved = revert_weight_conversion(model, dict(state))
    except Exception:  # what it cannot convert has the names of the model
        return {}
    found = {stored: names[id(one)] for stored, one in saved.items() if id(one) in names}
    return {stored: name for stored, name in found.items() if stored not in state}


def _typed(model: nn.Module, shards: Shards) -> nn.Module:
    """Return the model with the type of numbers that all stored weights have, if it is one."""
    floats = {one.dtype for one in shards.entries.values() if one.dtype.is_floating_point}
    return model.to(floats.pop()) if len(floats) == 1 else model
