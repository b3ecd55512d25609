"""The commands on specifications: check one, show and list the presets, print the schema."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

import fxprune
from fxprune.cli import options
from fxprune.cli.help import under
from fxprune.spec import presets

if TYPE_CHECKING:
    from fxprune.spec import Spec

app = typer.Typer(
    name="spec", help="Check specifications, and show the presets.", no_args_is_help=True
)


@app.command(epilog=under("spec check"))
def check(
    given: options.SpecName, plugin: options.Plugin = None, as_json: options.Json = False
) -> None:
    """Check a specification without a model, and print what it means in one line."""
    spec = fxprune.Spec.of(given)
    print(_json(spec.to_dict()) if as_json else f"ok: {summary(spec)}")


@app.command(epilog=under("spec show"))
def show(
    preset: options.Preset, plugin: options.Plugin = None, as_json: options.Json = False
) -> None:
    """Print the file of a preset: what it does, its paper, and its five axes."""
    text = presets.text(preset)
    print(_json(tomllib.loads(text)) if as_json else text, end="\n" if as_json else "")


@app.command(name="list", epilog=under("spec list"))
def list_presets(plugin: options.Plugin = None, as_json: options.Json = False) -> None:
    """List the presets with one line on each."""
    if as_json:
        print(_json({name: presets.line(name) for name in presets.names()}))
        return
    width = max(map(len, presets.names()))
    for name in presets.names():
        print(f"{name:<{width}}  {presets.line(name)}")


@app.command(epilog=under("spec schema"))
def schema(plugin: options.Plugin = None, as_json: options.Json = True) -> None:
    """Print the JSON schema of a specification, for editors."""
    print(_json(fxprune.Spec.json_schema()))


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False)


def summary(spec: Spec) -> str:
    """Return a specification in one line, without what has its default.

    >>> summary(fxprune.Spec.of({"target": "head", "schedule": "agp", "objective": {"ratio": 0.5}}))
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
