"""The command that tells what specifications leave of the accuracy, before anybody trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxprune.cli import options
from fxprune.cli.help import under
from fxprune.cli.models import load

app = typer.Typer()
Specs = Annotated[
    list[str], typer.Argument(help="Presets, or .toml, .yaml or .json files: one or more.")
]
Goals = Annotated[str, typer.Option("--sweep", help="Goals, as in 0.8,0.6,0.4.")]


@app.command(epilog=under("forecast"))
def forecast(
    model: options.Model,
    specs: Specs,
    sweep: Goals = "0.8,0.6,0.4",
    trust: options.Trust = False,
    input_shape: options.InputShape = None,
    example: options.Example = None,
    functions: options.Functions = None,
    calibrate: options.Calibrate = None,
    batch: options.Batch = 32,
    quiet: options.Quiet = False,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Tell what specifications leave at several goals, repaired and without any training."""
    from fxprune.cli import callback_files
    from fxprune.cli.family import goals
    from fxprune.loop.forecasting import forecast as told
    from fxprune.spec import Spec

    for one in specs:
        Spec.of(Path(one) if Path(one).suffix else one)  # what is wrong is said before the model
    asked = goals(sweep)
    given = callback_files.given(functions, calibrate, batch)
    given.pop("fine_tune", None)  # nothing is trained
    loaded, inputs = load(model, trust, input_shape, example)
    found = told(loaded, specs, inputs, sweep=asked, progress=not quiet, **given)
    print(found.to_json() if json else found)
