"""The command on checkpoints that need not fit into memory."""

from __future__ import annotations

import importlib
import json as json_
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import fxprune
from fxprune.cli import options
from fxprune.cli.help import under
from fxprune.cli.models import inputs_of
from fxprune.cli.quick_words import WORDS, spec_of
from fxprune.errors import FileError, InputError, root_cause, unknown

app = typer.Typer()

Folder = Annotated[
    Path, typer.Argument(help="A folder of .safetensors, with its index and config.json.")
]
Builder = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="What builds the model, module:function or file.py:function; it is given the table of "
        "config.json if it needs an argument. Default: the class that config.json names.",
    ),
]
OutputFolder = Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")]
Copied = Annotated[
    list[str] | None,
    typer.Option("--copy", help="Tensors that the model does not have, to copy: a pattern."),
]


@app.command(name="prune-checkpoint", epilog=under("prune-checkpoint"))
def prune_checkpoint(
    folder: Folder,
    output: OutputFolder,
    spec: options.SpecOf = None,
    ratio: options.Ratio = None,
    params: options.Params = None,
    macs: options.Macs = None,
    bytes: options.Bytes = None,
    activations: options.Activations = None,
    target: options.Target = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    metric: options.Metric = None,
    allocation: options.Allocation = None,
    round_to: options.RoundTo = None,
    model: Builder = None,
    input_shape: options.InputShape = None,
    example: options.Example = None,
    copy: Copied = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Prune a checkpoint tensor by tensor; the same call goes on where one was interrupted."""
    given_words = {name: value for name, value in locals().items() if name in WORDS}
    if not folder.is_dir():
        raise FileError(f"{folder}: there is no such folder")
    wanted, inputs = spec_of(spec, given_words), inputs_of(input_shape, example)
    if inputs is None:
        raise InputError(f"{folder}: example inputs are needed: give --input-shape or --example")
    report = fxprune.prune_checkpoint(
        folder,
        wanted,
        output,
        None if model is None else builder(model),
        inputs,
        copy=copy or (),
        progress=options.progress(quiet, verbose),
    )
    if json:
        print(json_.dumps({"wrote": str(output), "report": report.to_dict()}, indent=1))
        return
    print(f"wrote {output}")
    print(report)


def builder(said: str) -> Callable[..., Any]:
    """Return the function that `module:function` or `file.py:function` names.

    Raises InputError, or FileError where there is no such file.
    """
    place, colon, name = said.rpartition(":")
    if not (place and colon and name):
        raise InputError(f'--model: "{said}" is not module:function')
    try:
        if place.endswith(".py"):
            found = _of_file(Path(place))
        else:
            found = vars(importlib.import_module(place))
    except FileError:
        raise
    except Exception as error:  # importing runs any code
        raise InputError(f"--model: {place} raised {root_cause(error, 200)}") from error
    function = found.get(name)
    if not callable(function):
        known = [key for key, one in found.items() if callable(one) and not key.startswith("_")]
        raise InputError(f"--model: {place}: {unknown('function', name, known)}")
    made: Callable[..., Any] = function
    return made


def _of_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileError(f"{path}: there is no such file")
    return runpy.run_path(str(path), run_name="model")
