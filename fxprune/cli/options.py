"""The options of the command line, each declared once, whichever commands take it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fxprune.errors import InputError
from fxprune.plugins import run_file

Model = Annotated[Path, typer.Argument(help="A .pt2 program, or a pickled .pt/.pth module.")]
Trust = Annotated[bool, typer.Option("--trust", help="Load a file that can run code.")]
InputShape = Annotated[
    list[str] | None,
    typer.Option("--input-shape", help="Shape of one example input, as in 2,3,224,224[:int64]."),
]
Example = Annotated[
    Path | None, typer.Option("--example", help="Example inputs: .pt, .safetensors, .npy or .npz.")
]
Dynamic = Annotated[
    str,
    typer.Option("--dynamic", help="Axes of the inputs that may vary: auto (all), or batch."),
]
Outputs = Annotated[
    str | None,
    typer.Option("--outputs", help="Parts of the result that count, as in logits or 0,2."),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="What to write: .onnx or .pt2.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _run_plugins(paths: list[Path] | None) -> list[Path] | None:
    """Run the files before the command does anything with what they register."""
    for path in paths or ():
        run_file(path)
    return paths


Plugin = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        callback=_run_plugins,
        help="A Python file, which is run: rules, metrics and so on in it. Repeatable.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what solvers do as well.")]

# ---- what to prune, with what, and how often -----------------------------------------------------

SpecOf = Annotated[
    str | None, typer.Option("--spec", help="What to prune: a preset, or a .toml, .yaml or .json.")
]
Passes = Annotated[
    str, typer.Option("--passes", help='As in "couple,score,allocate{ratio=0.5},shrink".')
]
Functions = Annotated[
    Path | None,
    typer.Option(
        "--callbacks",
        help="A Python file, which is run: calibrate, loss, evaluate and fine_tune in it.",
    ),
]
Calibrate = Annotated[
    Path | None, typer.Option("--calibrate", help="Batches of data: .safetensors or .npz.")
]
Batch = Annotated[int, typer.Option("--batch", help="Examples in one of those batches.")]
Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", help="A folder: a killed run resumes from it.")
]
Sweep = Annotated[
    str | None,
    typer.Option(
        "--sweep",
        help="Goals, as in 0.8,0.6,0.4: a model each (OUTPUT-0.8 …), a table and a plot.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", help="The plot of a sweep, .svg or .png; default: OUTPUT.svg."),
]

# ---- quick words: a specification without a file -------------------------------------------------

QUICK = "Quick words, alone or in place of what --spec says"


def _quick(name: str, help_: str) -> Any:
    return typer.Option(name, help=help_, rich_help_panel=QUICK)


Ratio = Annotated[float | None, _quick("--ratio", "Share of the units to remove.")]
Params = Annotated[float | None, _quick("--params", "Share of the parameters to keep.")]
Macs = Annotated[float | None, _quick("--macs", "Share of the MACs to keep.")]
Bytes = Annotated[float | None, _quick("--bytes", "Share of the bytes of weights to keep.")]
Activations = Annotated[
    float | None, _quick("--activations", "Share of the peak of activations to keep.")
]
Latency = Annotated[str | None, _quick("--latency", 'Share of the time to keep, or "8 ms".')]
Device = Annotated[str | None, _quick("--device", "Where a latency is measured.")]
DeviceThreads = Annotated[int | None, _quick("--threads", "Threads that a latency is of.")]
Target = Annotated[str | None, _quick("--target", "A kind: channel, head, hidden, …, or all.")]
Include = Annotated[list[str] | None, _quick("--include", "Modules to prune, as a pattern.")]
Exclude = Annotated[list[str] | None, _quick("--exclude", "Modules to leave, as a pattern.")]
Metric = Annotated[str | None, _quick("--metric", "The importance of a unit: l2, taylor-fo, …")]
Allocation = Annotated[str | None, _quick("--allocation", "How much of each target: optimal, …")]
Schedule = Annotated[str | None, _quick("--schedule", "In which steps: one-shot, agp, …")]
Steps = Annotated[int | None, _quick("--steps", "How many steps of the schedule.")]
RoundTo = Annotated[int | None, _quick("--round-to", "Widths are multiples of this.")]

# ---- ONNX files ----------------------------------------------------------------------------------

Files = Annotated[list[Path], typer.Argument(help="ONNX files; ratios are to the first.")]
OnnxFile = Annotated[Path, typer.Argument(help="An ONNX file.")]
OnnxOutput = Annotated[Path, typer.Option("-o", "--output", help="The .onnx file to write.")]
OnnxPasses = Annotated[
    str | None, typer.Option("--passes", help='As in "onnx_fold,onnx_share"; default: all.')
]
Shape = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Sizes of one input by name, as in ids=1,128; repeatable."),
]
Threads = Annotated[
    str | None, typer.Option("--threads", help="As in 1,4; default: 1 and all cores.")
]
LeadingAxis = Annotated[int | None, typer.Option("--batch", min=1, help="Leading axis.")]
Seconds = Annotated[float, typer.Option("--seconds", min=0, help="For each file.")]
Repeats = Annotated[
    int | None, typer.Option("--repeats", min=1, help="Runs of each file, instead.")
]
Rtol = Annotated[
    float, typer.Option("--rtol", min=0, help="Relative change of an output that is allowed.")
]

# ---- specifications ------------------------------------------------------------------------------

SpecName = Annotated[str, typer.Argument(help="A preset, or a .toml, .yaml or .json file.")]
Preset = Annotated[str, typer.Argument(help="The name of a preset.")]
PlanFile = Annotated[Path, typer.Argument(help="A plan (.json), or a pruned model (.pt2).")]


def counted(words: str | None) -> list[str | int] | None:
    """Return the names and places after --outputs.

    >>> counted("logits,0")
    ['logits', 0]
    """
    if words is None:
        return None
    named = [word.strip() for word in words.split(",") if word.strip()]
    return [int(n) if n.removeprefix("-").isdecimal() else n for n in named]


def progress(quiet: bool, verbose: bool) -> bool | Literal["verbose"]:
    """Return what --quiet and --verbose amount to; raises InputError for both."""
    if quiet and verbose:
        raise InputError("--quiet, --verbose: give one of the two")
    return "verbose" if verbose else not quiet


def dynamic_axes(word: str) -> Literal["auto", "batch"]:
    """Return the word after --dynamic; raises InputError for others."""
    if word == "auto":
        return "auto"
    if word == "batch":
        return "batch"
    raise InputError(f"--dynamic {word}: there are auto and batch")
