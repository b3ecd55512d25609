"""The commands that look and change nothing: inspect, explain, and the difference of two plans."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

import typer

import fxprune
from fxprune.cli import options
from fxprune.cli.help import under
from fxprune.cli.models import load, tell
from fxprune.errors import FileError, InputError

app = typer.Typer()

What = Annotated[
    str | None,
    typer.Argument(help="A module, parameter or target; default: all that cannot leave."),
]
Pair = Annotated[
    tuple[str, str] | None,
    typer.Option("--pair", help="Two of these: are they tied, and through which operators?"),
]
GraphFile = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="The coupling graph: .dot, .graphml or .json."),
]


@app.command(epilog=under("inspect"))
def inspect(
    model: options.Model,
    trust: options.Trust = False,
    input_shape: options.InputShape = None,
    example: options.Example = None,
    outputs: options.Outputs = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Show the tree of a model: widths, costs, what leaves together, what is pinned and why."""
    from fxprune.report.report_tables import pinned_lines

    loaded, inputs = load(model, trust, input_shape, example)
    analysis = fxprune.analyze(loaded, inputs, outputs=options.counted(outputs))
    if json:
        print(analysis.to_json())
        return
    print(analysis)
    if analysis.pinned:
        print("what is pinned, and why:")
    for line in pinned_lines(analysis.pinned):
        print(f"  {line}")


@app.command(epilog=under("explain"))
def explain(
    model: options.Model,
    what: What = None,
    pair: Pair = None,
    output: GraphFile = None,
    trust: options.Trust = False,
    input_shape: options.InputShape = None,
    example: options.Example = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Explain what leaves together, what cannot leave, and through which operators."""
    from fxprune.report import coupling_graph

    if what is not None and pair is not None:
        raise InputError(f"{what}, --pair: give one of the two")
    if output is not None:
        coupling_graph.check_format(output)
    analysis = fxprune.analyze(*load(model, trust, input_shape, example))
    found = analysis.explain_pair(*pair) if pair is not None else analysis.explain(what)
    print(json_.dumps(found.to_dict(), indent=1) if json else found)
    if output is not None:
        coupling_graph.write(analysis.graph(), output)
        if not json:
            tell(output)


@app.command(epilog=under("diff"))
def diff(first: options.PlanFile, second: options.PlanFile, json: options.Json = False) -> None:
    """Show which units and indices two plans keep differently."""
    from fxprune.report.difference import Difference

    found = Difference.of(_plan(first), _plan(second))
    print(json_.dumps(found.to_dict(), indent=1) if json else found)


def _plan(path: Path) -> fxprune.Plan:
    """Return the plan in a file that `Plan.save` wrote, or of a pruned model."""
    if path.suffix == ".json":
        return fxprune.Plan.load(path)
    if path.suffix != ".pt2":
        raise FileError(f"{path}: a plan (.json), or a pruned model (.pt2), is needed")
    plan: fxprune.Plan | None = fxprune.load(path).plan
    if plan is None:
        raise FileError(f"{path}: holds no plan: it was not pruned by fxprune")
    return plan
