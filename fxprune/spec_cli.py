"""The commands on specifications: check one, show and list the presets, print the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fxprune import presets
from fxprune.spec import Spec

app = typer.Typer(
    name="spec", help="Check specifications, and show the presets.", no_args_is_help=True
)
NameArg = Annotated[str, typer.Argument(help="A preset, or a .toml, .yaml or .json file.")]


@app.command()
def check(given: NameArg) -> None:
    """Check a specification without a model, and print what it means in one line."""
    print(f"ok: {summary(Spec.of(given))}")


@app.command()
def show(preset: Annotated[str, typer.Argument(help="The name of a preset.")]) -> None:
    """Print the file of a preset: what it does, its paper, and its five axes."""
    print(presets.text(preset), end="")


@app.command(name="list")
def list_presets() -> None:
    """List the presets with one line on each."""
    width = max(map(len, presets.names()))
    for name in presets.names():
        print(f"{name:<{width}}  {presets.line(name)}")


@app.command()
def schema() -> None:
    """Print the JSON schema of a specification, for editors."""
    print(json.dumps(Spec.json_schema(), indent=1, ensure_ascii=False))


def summary(spec: Spec) -> str:
    """Return a specification in one line, what is left at its default out.

    >>> summary(Spec.of({"target": "head", "schedule": "agp", "objective": {"ratio": 0.5}}))
    'target head; metric l2; allocation uniform; schedule agp; objective ratio=0.5'
    """
    targets = [_shown(one.to_dict(), "kind") for one in spec.target]
    strategies = [
        f"{axis} {_shown(getattr(spec, axis).model_dump(exclude_defaults=True), 'name', one)}"
        for axis, one in (("metric", "l2"), ("allocation", "uniform"), ("schedule", "one-shot"))
    ]
    name, goal = spec.objective.chosen
    objective = _shown({"name": f"{name}={goal:g}", **spec.objective.options}, "name")
    return "; ".join([f"target {' + '.join(targets)}", *strategies, f"objective {objective}"])


def _shown(table: Mapping[str, Any], key: str, default: str = "") -> str:
    name = table.get(key, default)
    rest = ", ".join(f"{k}={_value(v)}" for k, v in table.items() if k != key)
    listed = name if isinstance(name, str) else "|".join(name)
    return f"{listed} ({rest})" if rest else str(listed)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _shown(value, "name", "l2")
    return "|".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
