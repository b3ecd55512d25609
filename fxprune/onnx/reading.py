"""Read an ONNX file, and make inputs for it from what it says of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fxprune.errors import FileError, InputError, root_cause
from fxprune.onnx.sessions import Array
from fxprune.onnx.shapes import Dim, known

Shapes = Mapping[str, tuple[int, ...]]
"""Sizes that the caller gives, by the name of the input."""
MOST = 1 << 20  # a size that an example may have


def read(path: str | os.PathLike[str], *, weights: bool = True) -> onnx.ModelProto:
    """Read an ONNX file; without `weights`, what lies in files beside it is left there.

    Raises `FileError` where it cannot be read, or is no ONNX file.
    """
    try:
        model = onnx.load(os.fspath(path), format="protobuf", load_external_data=weights)
    except OSError as problem:
        raise FileError(
            f"{path}: cannot be read: {problem.strerror or problem}; check the name"
        ) from problem
    except Exception as problem:  # protobuf and the checker share no base class
        raise FileError(f"{path}: not an ONNX file: {root_cause(problem, 200)}") from problem
    # Almost any bytes parse as some message: a model also has an opset and gives something.
    if not model.opset_import or not model.graph.output:
        raise FileError(f"{path}: not an ONNX file: it has no opset or no output; give an .onnx")
    return model


def size(path: str | os.PathLike[str], model: onnx.ModelProto) -> int:
    """Return the bytes of a file and of the files beside it that hold its weights.

    Raises `FileError` where one of those is not there.
    """
    beside = {
        entry.value
        for weight in model.graph.initializer
        for entry in weight.external_data
        if entry.key == "location"
    }
    folder = Path(path).parent
    try:
        return sum(one.stat().st_size for one in (Path(path), *(folder / name for name in beside)))
    except OSError as problem:
        raise FileError(
            f"{path}: its weights cannot be read: {problem.filename}: {problem.strerror}; put that "
            "file beside it"
        ) from problem


def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller has to give: those without a value in the file."""
    held = {weight.name for weight in model.graph.initializer}
    return [entry for entry in model.graph.input if entry.name not in held]


def batches(model: onnx.ModelProto) -> bool:
    """Tell whether some input's leading axis may have any size."""
    return any(not isinstance(dims[0], int) for e in inputs(model) if (dims := known(e).dims))


def generate(
    model: onnx.ModelProto,
    where: str,
    batch: int | None = None,
    shapes: Shapes | None = None,
    seed: int = 0,
) -> dict[str, Array]:
    """Make inputs: normal noise for numbers, 0 and 1 for integers and booleans.

    An axis 0 of any size becomes `batch` (default 1); any other has to be in `shapes`, if the file
    does not say how long it was in the example that it was exported with. `where`
    names the file. Raises `InputError` where sizes lack or contradict the file.
    """
    given, entries = dict(shapes or {}), inputs(model)
    names = [entry.name for entry in entries]
    for name in given:
        if name not in names:
            raise InputError(
                f"--shape {name}: {where} has no such input; it has {', '.join(names) or 'none'}"
            )
    rng = np.random.default_rng(seed)
    examples = _examples(model)
    return {
        e.name: _made(e, where, batch, given.get(e.name), examples.get(e.name), rng)
        for e in entries
    }


def _examples(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the shapes of the inputs that a file of ours was exported with."""
    said = next((p.value for p in model.metadata_props if p.key == "fxprune.inputs"), "{}")
    try:
        found = json.loads(said)
    except ValueError:
        return {}
    sized = {
        name: shape
        for name, shape in (found.items() if isinstance(found, dict) else ())
        if isinstance(shape, list) and all(type(n) is int and 0 < n < MOST for n in shape)
    }
    return sized


def _made(
    entry: onnx.ValueInfoProto,
    where: str,
    batch: int | None,
    wanted: tuple[int, ...] | None,
    example: list[int] | None,
    rng: np.random.Generator,
) -> Array:
    if entry.type.WhichOneof("value") != "tensor_type":
        raise InputError(f"{where}: input {entry.name} is no tensor, and no value can be made up")
    about = known(entry)
    sizes = about.dims
    if example is not None and sizes is not None and len(example) == len(sizes):
        sizes = tuple(
            example[d] if d and not isinstance(n, int) else n for d, n in enumerate(sizes)
        )
    dims = _sizes(entry.name, about.dims if wanted else sizes, where, batch, wanted)
    dtype = _dtype(about.dtype)
    if dtype is None or dtype.kind not in "fiub":
        raise InputError(
            f"{where}: input {entry.name} is of type {onnx.TensorProto.DataType.Name(about.dtype)},"
            " which cannot be made up; use floating-point, integer or boolean inputs"
        )
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(dims)).astype(dtype)
    return np.asarray(rng.integers(0, 2, dims)).astype(dtype)


def _dtype(number: int) -> np.dtype[Any] | None:
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))
    except KeyError:
        return None


def _sizes(
    name: str,
    dims: tuple[Dim, ...] | None,
    where: str,
    batch: int | None,
    wanted: tuple[int, ...] | None,
) -> tuple[int, ...]:
    if wanted is not None:
        fits = dims is None or (
            len(dims) == len(wanted)
            and all(not isinstance(a, int) or a == b for a, b in zip(dims, wanted, strict=True))
        )
        if not fits:
            raise InputError(f"--shape {name}: {where} wants {_shown(dims)}, not {_shown(wanted)}")
        return wanted
    for axis, dim in enumerate(dims or ()):
        if not isinstance(dim, int) and axis:
            raise InputError(
                f"{where}: input {name}: axis {axis} ({dim or 'unnamed'}) may have any size; "
                f"give its sizes as --shape {name}={_shown(dims, batch or 1)}"
            )
    if dims is None:
        raise InputError(f"{where}: input {name} has no shape; give it as --shape {name}=1,3")
    if batch is not None and dims and isinstance(dims[0], int) and dims[0] != batch:
        raise InputError(
            f"--batch {batch}: {where}: input {name} has a fixed leading axis of {dims[0]}; "
            "leave --batch out, or name its sizes with --shape"
        )
    return tuple(dim if isinstance(dim, int) else (batch or 1) for dim in dims)


def _shown(dims: tuple[Dim, ...] | None, batch: int | None = None) -> str:
    """Write sizes as `--shape` takes them, with the batch in front and 128 as an example.

    >>> _shown(("batch", None, 3), 1)
    '1,128,3'
    """
    if batch is None:
        return ",".join("?" if dim is None else str(dim) for dim in dims or ())
    sizes = [
        dim if isinstance(dim, int) else (128 if k else batch) for k, dim in enumerate(dims or ())
    ]
    return ",".join(map(str, sizes))
