"""The coupling as a graph of networkx: operators, parameters and targets, and what ties them.

Written as DOT for Graphviz, as GraphML for yEd or Gephi, or as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import fx

from fxprune.errors import FileError
from fxprune.files import atomic_write
from fxprune.graphs import module_of, source_line
from fxprune.rules import TensorGuard
from fxprune.targets import Discovery
from fxprune.targets.chains import operator_of

Graph = nx.MultiDiGraph
KINDS = {"placeholder": "input", "get_attr": "parameter", "output": "output"}
SHAPES = {"target": "box", "parameter": "ellipse", "operator": "plaintext"}


def coupling_graph(discovery: Discovery) -> Any:
    """Return a `networkx.MultiDiGraph` of what is tied to what.

    Its nodes have a `kind`: `operator`, `parameter`, `target`, `input` or `output`. An edge of kind
    `reads` leads from what makes a tensor to the operator that reads it, and its `carries` lists
    which axis holds units of which target. An edge of kind `axis` leads from a target to a
    parameter: its `axis` leaves with the units, and `operator` is what reads it.
    """
    graph = Graph()
    names = {node: _name(node) for node in discovery.module.graph.nodes}
    kept = {
        node: None  # in the order of the graph
        for node in names
        if node.op != "get_attr" or str(node.target) in discovery.parameters
    }
    for node in kept:
        graph.add_node(names[node], **_described(node))
    owner = _owners(discovery)
    for node in kept:
        for operand in (one for one in node.all_input_nodes if one in kept):
            carried = _carried(discovery, operand, owner)
            graph.add_edge(names[operand], names[node], kind="reads", carries=carried)
    for target in discovery.targets:
        about = {"target_kind": target.kind, "units": len(target), "exact": target.exact}
        graph.add_node(target.name, kind="target", **about, why=target.why)
        for name, dim in target.footprint:
            readers = ", ".join(str(graph.nodes[n].get("operator")) for n in graph.successors(name))
            graph.add_edge(target.name, name, kind="axis", axis=dim, operator=readers)
    return graph


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "get_attr" else node.name


def _described(node: fx.Node) -> dict[str, Any]:
    value = node.meta.get("val")
    shape = "×".join(map(str, value.shape)) if isinstance(value, torch.Tensor) else ""
    return {
        "kind": KINDS.get(node.op, "operator"),
        "operator": operator_of(node),
        "module": module_of(node),
        "source": source_line(node),
        "shape": shape,
    }


def _owners(discovery: Discovery) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return for each variable the number of the target that it is a unit of, or −1."""
    owner = np.full(discovery.coupling.guards.size, -1, dtype=np.int64)
    for number, target in enumerate(discovery.targets):
        owner[target.units] = number
    return owner


def _carried(discovery: Discovery, node: fx.Node, owner: Any) -> str:
    """Say which axis of a tensor holds units of which targets."""
    value = discovery.coupling.values.get(node)
    said: list[str] = []
    for dim, guard in enumerate(value.dims if isinstance(value, TensorGuard) else ()):
        numbers = np.unique(owner[discovery.coupling.guards.normal(guard)])
        said += [f"{dim}: {discovery.targets[k].name}" for k in numbers[numbers >= 0]]
    return ", ".join(said)


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
