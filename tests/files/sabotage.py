"""Hostile archives of each sort: what is changed in an honest one."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

Records = dict[str, bytes]
Sabotage = Callable[[Records, Path], None]


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: torch.Tensor, mode: str = "plain") -> dict[str, Any]:
        y = self.linear(x) + self.table
        return {"y": y, "pair": (y.view(-1, 2), torch.cat([x, y]))}


class Pickled:
    """Make a directory when unpickled: the harmless stand-in for `os.system`."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def read(path: Path) -> Records:
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def write(records: Records, path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in records.items():
            file.writestr(f"archive/{name}", data)
    return path


def edit(records: Records, change: Callable[[Any], None], name: str = "models/model.json") -> None:
    document = json.loads(records[name])
    change(document)
    records[name] = json.dumps(document).encode()


def torch_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def sample_inputs(records: Records, marker: Path) -> None:
    records["data/sample_inputs/model.pt"] = torch_pickle(((Pickled(marker),), {}))


def pickled_weight(records: Records, marker: Path) -> None:
    records["data/weights/weight_0"] = torch_pickle(Pickled(marker))

    def change(config: Any) -> None:
        config["config"]["linear.weight"].update(use_pickle=True, path_name="weight_0")

    edit(records, change, "data/weights/model_weights_config.json")


def legacy_weights(records: Records, marker: Path) -> None:
    records["data/weights/model.pt"] = torch_pickle({"linear.weight": Pickled(marker)})


def opaque_constant(records: Records, marker: Path) -> None:
    records["data/constants/opaque_obj_0"] = pickle.dumps(Pickled(marker))
    meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    name = "data/constants/model_constants_config.json"
    edit(records, lambda config: config["config"].update(evil=meta), name)


def symbolic_size(records: Records, marker: Path) -> None:
    def change(document: Any) -> None:
        sizes = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"__import__('os').mkdir({str(marker)!r})"

    edit(records, change)


def guard(records: Records, marker: Path) -> None:
    code = f"__import__('os').mkdir({str(marker)!r}) is None"
    edit(records, lambda document: document.update(guards_code=[code]))


def add_node(records: Records, target: str, **arguments: Any) -> None:
    """Put a call before the first node of the graph."""
    kinds = {str: "as_string", bool: "as_bool", int: "as_int"}
    inputs = [
        {"name": name, "arg": {kinds[type(value)]: value}, "kind": 1}
        for name, value in arguments.items()
    ]
    outputs = [{"as_tensor": {"name": "call"}}]
    node = {"target": target, "inputs": inputs, "outputs": outputs, "metadata": {}, "name": "call"}

    def change(document: Any) -> None:
        graph = document["graph_module"]["graph"]
        graph["nodes"].insert(0, node)
        graph["tensor_values"]["call"] = graph["tensor_values"]["x"]

    edit(records, change)


def operator_writes(records: Records, marker: Path) -> None:
    """Call the one operator that maps a file, and makes it where there is none."""
    target = "torch.ops.aten.from_file.default"
    add_node(records, target, filename=str(marker), shared=True, size=4)


def node_name(records: Records, marker: Path) -> None:
    """Name a placeholder so that the generated `def forward` has a default that is a call."""

    def change(document: Any) -> None:
        specs = document["graph_module"]["signature"]["input_specs"]
        assert specs[-1]["constant_input"]["name"] == "mode"
        specs[-1]["constant_input"]["name"] = f"mode=__import__('os').mkdir({str(marker)!r})"

    edit(records, change)


def argument_name(records: Records, marker: Path) -> None:
    def change(document: Any) -> None:
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"].append(f"z=__import__('os').mkdir({str(marker)!r})")

    edit(records, change)


def constant_input(records: Records, marker: Path) -> None:
    text = f"' or __import__('os').mkdir({str(marker)!r}) or '"
    raw = records["models/model.json"].decode()
    raw = raw.replace('{"as_string": "plain"}', json.dumps({"as_string": text}))
    records["models/model.json"] = raw.encode()


def evil_module(marker: Path) -> str:
    name = f"imported_by_{marker.parent.name.replace('-', '_')}"
    (marker.parent / f"{name}.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nx = list\n")
    return name


def treespec(records: Records, kind: str, context: Any) -> None:
    spec = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

    def change(document: Any) -> None:
        document["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = spec

    edit(records, change)


def treespec_factory(records: Records, marker: Path) -> None:
    context = {"default_factory_module": evil_module(marker), "default_factory_name": "x"}
    treespec(records, "collections.defaultdict", {**context, "dict_context": []})


def treespec_enum(records: Records, marker: Path) -> None:
    key = {"__enum__": True, "fqn": f"{evil_module(marker)}:x", "name": "append"}
    treespec(records, "builtins.dict", json.dumps([key]))


BITING: dict[str, Sabotage] = {
    sabotage.__name__: sabotage
    for sabotage in (
        *(sample_inputs, pickled_weight, legacy_weights, opaque_constant, symbolic_size, guard),
        *(operator_writes, node_name, argument_name, constant_input),
        *(treespec_factory, treespec_enum),
    )
}
