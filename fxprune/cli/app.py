"""The command line: inspect, prune, speedup, export, run, passes, and those on ONNX and specs.

What stands at the top of this file is all that help and completion need: no command loads torch
before it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from json import dumps
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import fxprune
from fxprune._version import __version__
from fxprune.cli import check, checkpoint, explain, forecast, onnx, options, report, spec
from fxprune.cli.help import misused, statuses, under
from fxprune.cli.models import check_output, deliver, load
from fxprune.cli.quick_words import WORDS, spec_of
from fxprune.errors import FxpruneError, InputError, SpecErrors

if TYPE_CHECKING:
    from fxprune.report import LatencyReport

app = typer.Typer(
    name="fxprune",
    help="A pruning compiler for PyTorch: smaller, faster models, provably the same function.",
    no_args_is_help=True,
    epilog=statuses(),
    pretty_exceptions_enable=False,
)
app.add_typer(spec.app)
app.add_typer(explain.app)
app.add_typer(report.app)
app.add_typer(check.app)
app.add_typer(checkpoint.app)
app.add_typer(forecast.app)
app.add_typer(onnx.app)  # without a name: its commands stand beside the others


def main() -> None:
    """Run the command line; what a user can mend is a line on standard error and status 2."""
    try:
        sys.exit(app(prog_name="fxprune", standalone_mode=False))
    except FxpruneError as error:
        _refuse(*(error.lines if isinstance(error, SpecErrors) else (str(error),)))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:  # whoever read what is printed has gone
        sys.stdout = None  # nothing more is flushed to it
        sys.exit(1)
    except Exception as error:
        _refuse(*misused(error))


def _refuse(*lines: str) -> NoReturn:
    for text in lines:
        print(f"fxprune: error: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(2)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"fxprune {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take what stands before the name of a command."""


@app.command(epilog=under("prune"))
def prune(
    model: options.Model,
    output: options.Output,
    spec: options.SpecOf = None,
    ratio: options.Ratio = None,
    params: options.Params = None,
    macs: options.Macs = None,
    bytes: options.Bytes = None,
    activations: options.Activations = None,
    latency: options.Latency = None,
    device: options.Device = None,
    threads: options.DeviceThreads = None,
    target: options.Target = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    metric: options.Metric = None,
    allocation: options.Allocation = None,
    schedule: options.Schedule = None,
    steps: options.Steps = None,
    round_to: options.RoundTo = None,
    trust: options.Trust = False,
    input_shape: options.InputShape = None,
    example: options.Example = None,
    dynamic: options.Dynamic = "auto",
    outputs: options.Outputs = None,
    functions: options.Functions = None,
    calibrate: options.Calibrate = None,
    batch: options.Batch = 32,
    checkpoint: options.Checkpoint = None,
    sweep: options.Sweep = None,
    plot: options.Plot = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Prune a model to a specification and write the smaller model."""
    given_words = {name: value for name, value in locals().items() if name in WORDS}
    check_output(output)
    from fxprune.cli import callback_files, family

    wanted = spec_of(spec, given_words)
    given = callback_files.given(functions, calibrate, batch) | {
        "progress": options.progress(quiet, verbose)
    }
    if plot is not None and sweep is None:
        raise InputError(f"--plot {plot}: it shows a sweep; give --sweep too")
    if sweep is not None and checkpoint is not None:
        raise InputError("--checkpoint: a sweep keeps none; give one of the two")
    read = partial(load, model, trust, input_shape, example)
    if sweep is not None and dynamic != "auto":
        raise InputError("--dynamic: a sweep takes all axes that can be free; give one of the two")
    if sweep is not None and outputs is not None:
        raise InputError("--outputs: a sweep takes all of them; give one of the two")
    if sweep is not None:
        _judge(family.sweep(wanted, sweep, output, plot, read, given, json).latencies)
        return
    loaded, inputs = read()
    axes = options.dynamic_axes(dynamic)
    given |= {"dynamic": axes, "outputs": options.counted(outputs)}
    slim = fxprune.prune(loaded, wanted, inputs, checkpoint=checkpoint, **given)
    deliver(slim, output, json)
    _judge([slim.report.latency])


def _judge(latencies: Sequence[LatencyReport | None]) -> None:
    """End with status 3 where a latency was asked and missed, saying which."""
    missed = [one for one in latencies if one is not None and not one.met]
    for one in missed:
        print(f"fxprune: error: objective: {one}", file=sys.stderr)
    if missed:
        raise typer.Exit(3)


@app.command(epilog=under("speedup"))
def speedup(
    model: options.Model,
    output: options.Output,
    trust: options.Trust = False,
    input_shape: options.InputShape = None,
    example: options.Example = None,
    dynamic: options.Dynamic = "auto",
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Remove what the zeros of a sparse model prove to be dead, and write the smaller model."""
    check_output(output)
    axes = options.dynamic_axes(dynamic)
    loaded, inputs = load(model, trust, input_shape, example)
    deliver(fxprune.speedup(loaded, inputs, dynamic=axes), output, json)


@app.command(epilog=under("export"))
def export(
    model: options.Model,
    output: options.Output,
    trust: options.Trust = False,
    input_shape: options.InputShape = None,
    example: options.Example = None,
    dynamic: options.Dynamic = "auto",
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Write a model as one ONNX file, checked in ONNX Runtime, without pruning it."""
    check_output(output, ".onnx")
    loaded, inputs = load(model, trust, input_shape, example)
    axes = options.dynamic_axes(dynamic)
    deliver(fxprune.run(loaded, "restore", inputs, dynamic=axes), output, json)


@app.command(epilog=under("run"))
def run(
    model: options.Model,
    passes: options.Passes,
    output: options.Output,
    trust: options.Trust = False,
    input_shape: options.InputShape = None,
    example: options.Example = None,
    dynamic: options.Dynamic = "auto",
    outputs: options.Outputs = None,
    calibrate: options.Calibrate = None,
    batch: options.Batch = 32,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with the zeroed original.")
    ] = True,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Run passes on a model and write the result."""
    check_output(output)
    from fxprune import api
    from fxprune.cli import callback_files

    api.parse_passes(passes)  # what is wrong with them is said before the model is read
    given = callback_files.given(None, calibrate, batch)
    loaded, inputs = load(model, trust, input_shape, example)
    axes = options.dynamic_axes(dynamic)
    given |= {"dynamic": axes, "outputs": options.counted(outputs)}
    slim = api.run(loaded, passes, inputs, verify=verify, **given)
    deliver(slim, output, json)


@app.command(name="passes", epilog=under("passes"))
def list_passes(plugin: options.Plugin = None, json: options.Json = False) -> None:
    """List every pass with its options and one line on each."""
    from fxprune import api

    if json:
        keys = ("name", "options", "line")
        print(dumps([dict(zip(keys, one, strict=True)) for one in api.described_passes()]))
        return
    for name, listed, line in api.described_passes():
        print(f"{name}{listed}\n    {line}")
