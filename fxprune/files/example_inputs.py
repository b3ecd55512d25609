"""Keep example inputs in containers of other types than Python's as the tensors in them.

torch pickles example inputs with their containers, and reading a pickle runs what is in it: the
tensors are kept beside the program instead, which says how they lie in their containers.
"""

from __future__ import annotations

import base64
import copy
import io
import re
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxprune.files.storage import compacted

RECORD = "fxprune.inputs"
PLAIN = (tuple, list, dict)
_STEP = r"\['[^'\"\\\x00-\x1f\x7f]*'\]|\[\d+\]|\.[A-Za-z_][A-Za-z_0-9]*"
_PATH = re.compile(rf"({_STEP})*", re.ASCII)


def storable(program: ExportedProgram) -> tuple[ExportedProgram, dict[str, str]]:
    """Return the program as it goes into a file, with a text to go beside it.

    No tensor in it drags along more than its own numbers.
    """
    stored, beside = copy.copy(program), dict[str, str]()
    stored._state_dict = compacted(program.state_dict)
    stored._constants = compacted(program.constants)
    inputs = compacted(program.example_inputs)
    stored._example_inputs = inputs
    if inputs is not None and not _plain(program.call_spec.in_spec):
        leaves = io.BytesIO()
        torch.save(program.call_spec.in_spec.flatten_up_to(inputs), leaves)
        beside[RECORD] = base64.b64encode(leaves.getvalue()).decode()
        stored._example_inputs = None
    return stored, beside


def put_back(program: ExportedProgram, text: str | None) -> None:
    """Give a program that was loaded its example inputs again.

    Raises ValueError, or whatever the types of their containers raise, where they do not fit.
    """
    if text is not None:
        data = io.BytesIO(base64.b64decode(text, validate=True))
        leaves = torch.load(data, map_location="cpu", weights_only=True)
        args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
        program.example_inputs = args, kwargs


def strange(program: ExportedProgram) -> str | None:
    """Return the path of an example input that torch could take for more than a path.

    It writes them into the source text of checks.
    """
    paths = pytree.tree_leaves_with_path(program.example_inputs)
    keys = (pytree.keystr(path) for path, _ in paths)
    return next((key for key in keys if not _PATH.fullmatch(key)), None)


def _plain(spec: Any) -> bool:
    """Tell whether a tree consists of Python's own containers."""
    return spec.is_leaf() or (spec.type in PLAIN and all(map(_plain, spec.children())))
