"""The coupling as a graph of networkx: operators, parameters and targets, and what ties them.

Written as DOT for Graphviz, as GraphML for yEd or Gephi, or as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx

from fxprune.errors import FileError
from fxprune.files import atomic_write
from fxprune.report.flow import flow_of
from fxprune.targets import Discovery

Graph = nx.MultiDiGraph
SHAPES = {"target": "box", "parameter": "ellipse", "operator": "plaintext"}


def coupling_graph(discovery: Discovery) -> Any:
    """Return a `networkx.MultiDiGraph` of what is tied to what.

    Its nodes have a `kind`: `operator`, `parameter`, `target`, `input` or `output`. An edge of kind
    `reads` leads from what makes a tensor to the operator that reads it, and its `carries` lists
    which axis holds units of which target. An edge of kind `axis` leads from a target to a
    parameter: its `axis` leaves with the units, and `operator` is what reads it.
    """
    graph, flow = Graph(), flow_of(discovery)
    for one in flow.nodes:
        about = {key: v for key, v in vars(one).items() if key not in ("name", "carries")}
        graph.add_node(one.name, **about)
    for source, reader in flow.reads:
        carried = flow.nodes[source].carries
        said = ", ".join(f"{dim}: {discovery.targets[number].name}" for dim, number in carried)
        ends = flow.nodes[source].name, flow.nodes[reader].name
        graph.add_edge(*ends, kind="reads", carries=said)
    for target in discovery.targets:
        about = {"target_kind": target.kind, "units": len(target), "exact": target.exact}
        graph.add_node(target.name, kind="target", **about, why=target.why)
        for name, dim in target.footprint:
            readers = ", ".join(str(graph.nodes[n].get("operator")) for n in graph.successors(name))
            graph.add_edge(target.name, name, kind="axis", axis=dim, operator=readers)
    return graph


# ---- files ---------------------------------------------------------------------------------------


def to_dot(graph: Any) -> str:
    """Return a graph in the language of Graphviz."""
    lines = ["digraph coupling {", '  node [fontname="sans-serif"];']
    for name, about in graph.nodes(data=True):
        shape = SHAPES.get(about["kind"], "oval")
        label = f"{name}\n{about['units']} units" if about["kind"] == "target" else name
        tip = _quoted(str(about.get("source") or about.get("why") or name))
        lines.append(f"  {_quoted(name)} [shape={shape}, label={_quoted(label)}, tooltip={tip}];")
    for start, end, about in graph.edges(data=True):
        dashed = about["kind"] == "axis"
        label = f"axis {about['axis']}" if dashed else about["carries"]
        style = "dashed" if dashed else "solid"
        lines.append(
            f"  {_quoted(start)} -> {_quoted(end)} [label={_quoted(label)}, style={style}];"
        )
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    """Return a text as DOT quotes it: backslashes and quotes mean themselves."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def to_json(graph: Any) -> str:
    """Return a graph as JSON, in the form that `networkx.node_link_graph` reads."""
    return json.dumps(nx.node_link_data(graph, edges="edges"), indent=1)


def to_graphml(graph: Any) -> str:
    """Return a graph as GraphML."""
    return "\n".join(nx.generate_graphml(graph)) + "\n"


FORMATS: dict[str, Callable[[Any], str]] = {
    ".dot": to_dot,
    ".gv": to_dot,
    ".graphml": to_graphml,
    ".json": to_json,
}


def check_format(path: Path) -> None:
    """Raise FileError unless the suffix of a name is that of a format of graphs."""
    if path.suffix not in FORMATS:
        raise FileError(f"{path}: a graph is written as {', '.join(FORMATS)}; name it so")


def write(graph: Any, path: Path) -> None:
    """Write a graph in the format of the name's suffix; raises FileError."""
    check_format(path)
    with atomic_write(path) as place:
        place.write_text(FORMATS[path.suffix](graph), encoding="utf-8")
