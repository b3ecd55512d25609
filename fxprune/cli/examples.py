"""Example inputs from the command line: shapes written out, and files of tensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fxprune.errors import FileError, InputError, first_line

DTYPES = {
    name: getattr(torch, name)
    for name in [
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    ]
}


def shaped(text: str) -> torch.Tensor:
    """Return an example input of a shape such as `2,3,224,224`, or `2,16:int64`.

    Floats are normal, integers 0 or 1. Raises InputError where the text is no shape.
    """
    found = re.fullmatch(r"\s*(\d+(?:\s*[,x]\s*\d+)*)\s*(?::\s*(\w+))?\s*", text)
    if found is None:
        raise InputError(f'--input-shape: "{text}" is not a shape; write 2,3,224,224 or 2,16:int64')
    sizes = [int(part) for part in re.split(r"[,x]", found[1])]
    dtype = DTYPES.get(found[2] or "float32")
    if dtype is None:
        raise InputError(f'--input-shape: unknown dtype "{found[2]}"; known: {", ".join(DTYPES)}')
    generator = torch.Generator().manual_seed(0)
    try:
        if dtype.is_floating_point:
            return torch.randn(sizes, generator=generator).to(dtype)
        return torch.randint(0, 2, sizes, generator=generator).to(dtype)
    except (RuntimeError, TypeError) as error:  # more than memory, or than an index, holds
        raise InputError(f'--input-shape: "{text}" cannot be made: {first_line(error)}') from None


def read_examples(path: Path) -> Any:
    """Return the example inputs in a file, as `prune` takes them.

    `.pt` (tensors, tuples and dicts of them; nothing else is unpickled), `.safetensors` and `.npz`
    (keyword arguments), `.npy` (one input). Raises FileError where the file is none of these.
    """
    try:
        if path.suffix in (".pt", ".pth"):
            return torch.load(path, weights_only=True)
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if path.suffix == ".npy":
            return (torch.from_numpy(np.load(path, allow_pickle=False)),)
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError) as error:
        raise FileError(f"{path}: the example inputs cannot be read: {first_line(error)}") from None
    except Exception as error:  # pickle raises what it likes, and this pickle is not trusted
        raise FileError(f"{path}: holds more than tensors: {type(error).__name__}") from None
    raise FileError(f"{path}: example inputs are .pt, .safetensors, .npy or .npz")
