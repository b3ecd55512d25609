"""What most commands begin and end with: a model read from a file, and one written to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fxprune.errors import FileError, InputError
from fxprune.files import check_writable


def load(model: Path, trust: bool, shapes: list[str] | None, example: Path | None) -> Any:
    """Return the model in a file and example inputs for it.

    Raises FileError, UntrustedFileError or InputError.
    """
    inputs = inputs_of(shapes, example)
    from fxprune import api
    from fxprune.files import archive

    if not model.exists():
        raise FileError(f"{model}: there is no such file")
    if model.suffix == ".pt2":
        exported, extra = archive.load_exported(model, trust=trust)
        if "fxprune.plan.json" in extra:  # perhaps with masks, which are no part of the program
            return api.load(model, trust=trust), inputs
        return exported, inputs
    if model.suffix == ".onnx":
        raise FileError(
            f"{model}: an ONNX file is what comes out: give the model that it was exported from, "
            "as .pt2; fxprune compact and fxprune bench take ONNX files"
        )
    if model.suffix not in (".pt", ".pth"):
        raise FileError(f"{model}: not a model: a .pt2 program or a .pt/.pth module is needed")
    loaded = archive.load_pickled_module(model, trust=trust)
    signature = getattr(loaded, "signature", None)
    if inputs is None and signature is not None:
        inputs = (signature.args, signature.kwargs)
    if inputs is None:
        raise InputError(f"{model}: a pickled module needs --input-shape or --example")
    return loaded, inputs


def inputs_of(shapes: list[str] | None, example: Path | None) -> Any:
    """Return the example inputs that the command line gives, or nothing; raises InputError."""
    if shapes and example:
        raise InputError("--input-shape, --example: give one of the two")
    from fxprune.cli.examples import read_examples, shaped

    if example:
        return read_examples(example)
    return tuple(shaped(text) for text in shapes) if shapes else None


def check_output(output: Path, *suffixes: str) -> None:
    """Refuse an output that could not be written before any work is done; raises FileError."""
    wanted = suffixes or (".onnx", ".pt2")
    if output.suffix not in wanted:
        raise FileError(f"{output}: the name must end in {' or '.join(wanted)}")
    check_writable(output)


def put(slim: Any, output: Path) -> None:
    """Write a pruned module as what its name's suffix says: ONNX, or a program of torch.export."""
    from fxprune import api

    if output.suffix == ".onnx":
        api.export_onnx(slim, output)
    else:
        api.save(slim, output)


def tell(place: Path) -> None:
    """Print that a file was written, and its size where it has one: a pipe has none."""
    size = f" ({place.stat().st_size:,} bytes)" if place.is_file() else ""
    print(f"wrote {place}{size}")


def written(place: Path) -> dict[str, Any]:
    """Return the name of a file that was written and its size, as plain data."""
    return {"file": str(place), "bytes": place.stat().st_size if place.is_file() else None}


def deliver(slim: Any, output: Path, as_json: bool = False) -> None:
    """Write a pruned module, and say what was written and, where there is a report, what went."""
    put(slim, output)
    report = slim.report
    if as_json:
        told = {"wrote": [written(output)], "report": report and report.to_dict()}
        print(json.dumps(told, indent=1))
        return
    tell(output)
    if report is not None:
        print(report)
