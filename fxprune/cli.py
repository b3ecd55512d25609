"""The command line: inspect, prune, export, run, passes, spec."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fxprune import api, archive, callbacks, family_cli, onnx_cli, spec_cli, speeding
from fxprune.errors import FileError, FxpruneError, InputError
from fxprune.examples import read_examples, shaped
from fxprune.files import check_writable
from fxprune.report import LatencyReport
from fxprune.spec import Spec

app = typer.Typer(
    name="fxprune",
    help="A pruning compiler for PyTorch: smaller, faster models, provably the same function.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(spec_cli.app)
app.add_typer(onnx_cli.app)  # without a name: its commands stand beside the others

ModelArg = Annotated[Path, typer.Argument(help="A .pt2 program, or a pickled .pt/.pth module.")]
Trust = Annotated[bool, typer.Option("--trust", help="Load a file that can run code.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--input-shape", help="Shape of one example input, as in 2,3,224,224[:int64]."),
]
Example = Annotated[
    Path | None, typer.Option("--example", help="Example inputs: .pt, .safetensors, .npy or .npz.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="What to write: .onnx or .pt2.")]


def main() -> None:
    """Run the command line; what a user can mend is one line on standard error and status 2."""
    try:
        app()
    except FxpruneError as error:
        line = " ".join(str(error).split())
        print(f"fxprune: error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _load(model: Path, trust: bool, shapes: list[str] | None, example: Path | None) -> Any:
    """Return the model in a file and example inputs for it."""
    if shapes and example:
        raise InputError("--input-shape, --example: give one of the two")
    inputs = None
    if example:
        inputs = read_examples(example)
    elif shapes:
        inputs = tuple(shaped(text) for text in shapes)
    if not model.exists():
        raise FileError(f"{model}: there is no such file")
    if model.suffix == ".pt2":
        exported, extra = archive.load_exported(model, trust=trust)
        if "fxprune.plan.json" in extra:  # perhaps with masks, which are no part of the program
            return api.load_module(model, trust=trust), inputs
        return exported, inputs
    if model.suffix not in (".pt", ".pth"):
        raise FileError(f"{model}: not a model: a .pt2 program or a .pt/.pth module is needed")
    loaded = archive.load_pickled_module(model, trust=trust)
    signature = getattr(loaded, "signature", None)
    if inputs is None and signature is not None:
        inputs = (signature.args, signature.kwargs)
    if inputs is None:
        raise InputError(f"{model}: a pickled module needs --input-shape or --example")
    return loaded, inputs


def _check_output(output: Path) -> None:
    """Refuse an output that could not be written before any work is done."""
    if output.suffix not in (".onnx", ".pt2"):
        raise FileError(f"{output}: the name must end in .onnx or .pt2")
    check_writable(output)


def _write(slim: Any, output: Path) -> None:
    family_cli.put(slim, output)
    print(f"wrote {output} ({output.stat().st_size:,} bytes)")


@app.command()
def inspect(
    model: ModelArg,
    trust: Trust = False,
    input_shape: Shapes = None,
    example: Example = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the targets of a model, what is pinned and why, and the coverage."""
    loaded, inputs = _load(model, trust, input_shape, example)
    analysis = api.analyze(loaded, inputs)
    if json:
        print(api.analysis_json(analysis))
        return
    console = Console()
    table = Table("target", "kind", "units", "exact")
    for target in analysis.targets:
        exact = "yes" if target.exact else f"no: {target.why}"
        table.add_row(escape(target.name), target.kind, str(len(target)), escape(exact))
    console.print(table)
    for pinned in analysis.pinned:
        print(pinned)
    for note in analysis.notes:
        print(f"note: {note}")
    print(
        f"{analysis.parameters:,} parameters, {analysis.macs:,} MACs; "
        f"{analysis.coverage:.2%} of the parameters lie in at least one prunable unit"
    )


@app.command()
def prune(
    model: ModelArg,
    spec: Annotated[
        str, typer.Option("--spec", help="What to prune: a preset, or a .toml, .yaml or .json.")
    ],
    output: Output,
    trust: Trust = False,
    input_shape: Shapes = None,
    example: Example = None,
    functions: Annotated[
        Path | None,
        typer.Option(
            "--callbacks",
            help="A Python file, which is run: calibrate, loss, evaluate and fine_tune in it.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", help="Batches of data: .safetensors or .npz.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Examples in one of those batches.")] = 32,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A folder: a killed run goes on from it.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            help="Goals, as in 0.8,0.6,0.4: a model each (OUTPUT-0.8 …), a table and a plot.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="The plot of a sweep, .svg or .png; default: OUTPUT.svg."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Prune a model to a specification and write what is left."""
    _check_output(output)
    wanted = Spec.of(spec)
    given = callbacks.given(functions, calibrate, batch)
    if plot is not None and sweep is None:
        raise InputError(f"--plot {plot}: it shows a sweep; give --sweep too")
    if sweep is not None:
        if checkpoint is not None:
            raise InputError("--checkpoint: a sweep keeps none; leave out it or --sweep")
        given["progress"] = not quiet
        load = partial(_load, model, trust, input_shape, example)
        _judge(family_cli.sweep(wanted, sweep, output, plot, load, given).latencies)
        return
    loaded, inputs = _load(model, trust, input_shape, example)
    slim = api.prune(loaded, wanted, inputs, checkpoint=checkpoint, progress=not quiet, **given)
    _write(slim, output)
    print(slim.report)
    _judge([slim.report.latency])


def _judge(latencies: Sequence[LatencyReport | None]) -> None:
    """End with status 3 where a latency was asked and missed, saying which."""
    missed = [one for one in latencies if one is not None and not one.met]
    for one in missed:
        print(f"fxprune: error: objective: {one}", file=sys.stderr)
    if missed:
        raise typer.Exit(3)


@app.command()
def speedup(
    model: ModelArg,
    output: Output,
    trust: Trust = False,
    input_shape: Shapes = None,
    example: Example = None,
) -> None:
    """Remove what the zeros of a sparse model prove to be dead, and write what is left."""
    _check_output(output)
    loaded, inputs = _load(model, trust, input_shape, example)
    slim = speeding.speedup(loaded, inputs)
    _write(slim, output)
    print(slim.report)


@app.command()
def export(
    model: ModelArg,
    output: Output,
    trust: Trust = False,
    input_shape: Shapes = None,
    example: Example = None,
) -> None:
    """Write a model as one ONNX file, checked in ONNX Runtime, without pruning it."""
    if output.suffix != ".onnx":
        raise FileError(f"{output}: the name must end in .onnx")
    _check_output(output)
    loaded, inputs = _load(model, trust, input_shape, example)
    _write(api.run(loaded, "restore", inputs), output)


@app.command()
def run(
    model: ModelArg,
    passes: Annotated[
        str, typer.Option("--passes", help='As in "couple,score,allocate{ratio=0.5},shrink".')
    ],
    output: Output,
    trust: Trust = False,
    input_shape: Shapes = None,
    example: Example = None,
) -> None:
    """Run passes on a model and write the result."""
    _check_output(output)
    api.parse_passes(passes)
    loaded, inputs = _load(model, trust, input_shape, example)
    slim = api.run(loaded, passes, inputs)
    _write(slim, output)
    if slim.report is not None:
        print(slim.report)


@app.command(name="passes")
def list_passes() -> None:
    """List every pass with its options and one line on each."""
    for name, options, line in api.described_passes():
        print(f"{name}{options}\n    {line}")


if __name__ == "__main__":
    main()
