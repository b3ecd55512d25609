"""The command that shows a report: a page of HTML, or a figure for a paper."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import fxprune
from fxprune.cli import options
from fxprune.cli.help import under
from fxprune.cli.models import tell, written
from fxprune.errors import FileError, InputError

if TYPE_CHECKING:
    from fxprune.report import Report

app = typer.Typer()

PrunedFile = Annotated[Path, typer.Argument(help="A .pt2 that fxprune wrote.")]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="A page: .html; or a figure: .svg, .png or .pdf.")
]
Figure = Annotated[
    str | None,
    typer.Option("--figure", help="widths (the default), scores, curves, repair, latency or time."),
]


@app.command(epilog=under("report"))
def report(
    model: PrunedFile, output: Output, figure: Figure = None, json: options.Json = False
) -> None:
    """Write the report of a pruned model as a page of HTML, or one figure of it."""
    from fxprune.report import figures

    page = output.suffix in (".html", ".htm")
    if page and figure is not None:
        raise InputError(f"--figure {figure}: a page has all of them; name an .svg, .png or .pdf")
    drawn = figure or "widths"
    if not page:
        figures.check(output, drawn)
    found: Report | None = fxprune.load(model).report
    if found is None:
        raise FileError(f"{model}: holds no report: it was not pruned by fxprune")
    if page:
        found.to_html(output)
    else:
        figures.draw(found, drawn, output)
    if json:
        print(json_.dumps({"wrote": [written(output)], "report": found.to_dict()}, indent=1))
    else:
        tell(output)
