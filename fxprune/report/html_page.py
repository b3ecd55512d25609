"""The page of a report: one file of HTML that needs nothing else, safe for whatever names it shows.

Its parts lie in `assets/`, with the libraries that draw: cytoscape.js and dagre the graph, Chart.js
the rest. Data goes into the page as JSON, and the page makes text of it, never markup.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from fxprune.report.picture import Picture

VENDOR = ("cytoscape.min.js", "cytoscape-dagre.min.js", "chart.umd.min.js")
SCRIPTS = ("page.js", "network.js", "graph.js", "tables.js", "charts.js", "start.js")


def page_of(report: Mapping[str, Any], picture: Picture | None) -> str:
    """Return the page of a report, which is given as plain data, and of its picture."""
    name = picture.model if picture is not None else "A model"
    spec = picture.spec if picture is not None else {}
    return page(
        {
            "title": f"{name}, pruned",
            "asked": asked(spec),
            "metric": _named(spec.get("metric", "")),
            "spec": spec,
            "report": report,
            "picture": picture.to_dict() if picture is not None else None,
        }
    )


def page_of_family(family: Mapping[str, Any], goals: str, spec: Mapping[str, Any]) -> str:
    """Return the page of a family, which is given as plain data: its members and their front."""
    return page({"title": "A family", "asked": goals, "spec": spec, "metric": "", "family": family})


def page(data: Mapping[str, Any]) -> str:
    """Return the page that shows `data`: `title`, and what the scripts in `assets/` read."""
    scripts = [f"vendor/{name}" for name in VENDOR] + list(SCRIPTS)
    parts = {
        "title": escape(str(data["title"])),
        "style": _asset("style.css"),
        "data": embedded(data),
        "scripts": "\n".join(f"<script>\n{_asset(name)}\n</script>" for name in scripts),
    }
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], _asset("page.html"))


def embedded(data: Any) -> str:
    r"""Return data as JSON that no text in it can end or leave, inside of a script element.

    >>> embedded({"</script>": float("inf")})
    '{"\\u003c/script\\u003e":null}'
    """
    text = json.dumps(_finite(data), separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(data: Any) -> Any:
    """Return data without numbers that JSON does not know."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(one) for one in data]
    return data


def asked(spec: Mapping[str, Any]) -> str:
    """Return in one line what a specification asks for.

    >>> asked({"objective": {"macs": 0.5}, "metric": {"name": "l2"}})
    'objective macs 0.5 · metric l2'
    """
    if "passes" in spec:
        return f"passes {spec['passes']}"
    goal = spec.get("objective") or {}
    said = [f"objective {' '.join(f'{k} {v}' for k, v in goal.items() if v is not None)}"]
    said = said if goal else []
    for axis in ("metric", "allocation", "schedule"):
        name = _named(spec.get(axis, ""))
        said += [f"{axis} {name}"] if name else []
    return " · ".join(said)


def _named(part: Any) -> str:
    return str(part.get("name", "")) if isinstance(part, Mapping) else str(part or "")


@cache
def _asset(name: str) -> str:
    return files("fxprune.report").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")
