"""Prune every torchvision model and show what came of it, one model a process, in one table.

Of each model of the zoo (classification, segmentation, video, optical flow, detection):

*half*: half the MACs, all targets, at the usual resolution (224 pixels, 299 for Inception; the
smallest legal input for video and flow): seconds, targets, coverage, parameters and MACs; and the
result runs at another batch size and gives finite numbers of the right shape.

*law*: half of every exact target, at a small resolution where the model allows one: the original
eager model with the dropped weights zeroed ≡ the shrunk module ≡ ONNX Runtime on the exported file;
and all of it again at another size of every axis that is free.

No model is special to the library; this file only knows how each is built and what it takes. What
is constant in a fresh model (batch-norm statistics, zero-initialised heads, layer scales) gets
seeded noise first, or else equality would hold for want of numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import fx, nn
from torch.utils import _pytree as pytree

import fxprune
from fxprune import passes, pipeline
from fxprune.api import finished
from fxprune.capture import capture
from fxprune.cost import Costs, OriginalWidths
from fxprune.errors import CaptureError
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.surgery import outputs, relative, zeroed
from fxprune.targets import Selection
from zoo_models import GROUPS, Case, cases
from zoo_rows import HEADINGS, Row, cells, markdown, summary

HALF: dict[str, Any] = {"target": "all", "objective": {"macs": 0.5}}
LAW: dict[str, Any] = {"target": {"kind": "all", "exact": True}, "objective": {"ratio": 0.5}}
PRODUCTS = (["matmul"], ["bmm"], ["einsum"])
SECONDS = 1800  # after which a model counts as failed

# ---- one model -----------------------------------------------------------------------------------


def measure(case: Case, onnx: bool = True, small: bool = False) -> Row:
    """Return the row of one model; `small` halves the MACs at the law's resolution too."""
    torch.set_num_threads(1)
    row, began = Row(case.name, case.group), time.perf_counter()
    try:
        _half(case, row, small)
        _law(case, row, onnx)
    except CaptureError as error:
        row.refused = str(error)
    except Exception as error:  # whatever a model of the zoo brings up belongs in its row
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        row.failed = f"{type(error).__name__} at {place}: {error}".replace("\n", " ")[:400]
    row.seconds = time.perf_counter() - began
    row.gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def pruned(model: nn.Module, inputs: tuple[Any, ...], spec: Mapping[str, Any]) -> Program:
    """Return the program that `prune` ends with, without its own verification."""
    began = time.perf_counter()
    program = capture(model, inputs)
    program = replace(program, seconds={"capture": time.perf_counter() - began})
    steps = [step for step in passes.pruning(fxprune.Spec.of(spec)) if step.name != "verify"]
    return pipeline.run(program, steps)


def attends(graph: fx.Graph) -> bool:
    """Tell whether a graph has attention: a softmax that a product takes, or the fused operator."""
    for node in graph.nodes:
        name = str(node.target)
        users = list(node.users) if "softmax" in name else []
        while users and any(pass_on in str(users[0].target) for pass_on in ("dropout", "clone")):
            users = list(users[0].users)
        taken = any(str(user.target).split(".")[-2:-1] in PRODUCTS for user in users)
        if taken or "scaled_dot_product" in name:
            return True
    return False


def _half(case: Case, row: Row, small: bool) -> None:
    """Halve the MACs, and run the result at another batch size."""
    model = case.build(small)
    program = pruned(model, case.inputs(small), HALF)
    discovery, spent, costs = program[OriginalWidths].discovery, program.seconds, program[Costs]
    row.capture = spent["capture"]
    row.analysis = sum(spent[name] for name in ("couple", "select", "score", "allocate"))
    row.rewrite = spent["shrink"] + spent["restore"]
    row.targets, row.coverage = len(discovery.targets), discovery.coverage
    row.attention = attends(discovery.module.graph)
    row.heads = sum(target.kind == "head" for target in discovery.targets)
    row.params, row.params_after = costs.parameters_before, costs.parameters_after
    row.macs, row.macs_after = costs.macs_before, costs.macs_after
    one = outputs(model, *program.signature.resized(1))
    three = outputs(program.module, *program.signature.resized(3))
    row.batch = any(program.signature.dynamic) and all(
        b.shape == (3 * a.shape[0], *a.shape[1:]) and bool(b.isfinite().all())
        for a, b in zip(one, three, strict=True)
    )


def _law(case: Case, row: Row, onnx: bool) -> None:
    """Take half of every exact target; compare with the zeroed eager model, and with the file."""
    model, inputs = case.build(small=True), case.inputs(small=True)
    program = pruned(model, inputs, LAW)
    row.exact = len(program[Selection].targets)
    zeros = zeroed(model, program[Plan])
    ours = outputs(program.module, inputs, {})
    row.masked = _apart(_eager(model, zeros, (inputs, {})), ours)
    row.changed = _apart(outputs(model, inputs, {}), ours)
    _second(model, zeros, program, row)
    if onnx:
        slim = finished(program, LAW)
        with tempfile.TemporaryDirectory() as folder:
            row.onnx = fxprune.export_onnx(slim, Path(folder) / "law.onnx").error


def _second(model: nn.Module, zeros: Mapping[str, Any], program: Program, row: Row) -> None:
    """Say which axes are free, and compare at another size of every one of them."""
    signature = program.signature
    row.free = "; ".join(
        " ".join(str(d) for d, name in enumerate(names) if name) or "none"
        for names in signature.axes
    )
    row.fixed = tuple(one for one in signature.lines() if not one.endswith("any size"))
    sizes = signature.second_sizes()
    if not sizes:
        return
    call = signature.sized(sizes)
    leaves = pytree.tree_leaves(call)
    row.second = " ".join(
        "×".join(map(str, leaf.shape)) for leaf in leaves if isinstance(leaf, torch.Tensor)
    )
    row.masked_second = _apart(_eager(model, zeros, call), outputs(program.module, *call))


def _eager(model: nn.Module, zeros: Mapping[str, Any], call: Any) -> list[torch.Tensor]:
    """Return the tensors that the eager model gives with some of its weights zeroed."""
    with torch.no_grad():
        result = torch.func.functional_call(model, dict(zeros), *call)
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _apart(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    return max(relative(a, b) for a, b in zip(first, second, strict=True))


def apart(case: Case, onnx: bool) -> Row:
    """Return the row of one model, measured in a process of its own."""
    call = [sys.executable, __file__, "--worker", case.name, "--group", case.group]
    call += [] if onnx else ["--no-onnx"]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    row = Row(case.name, case.group)
    try:
        done = subprocess.run(
            call, capture_output=True, text=True, timeout=SECONDS, env=os.environ | threads
        )
        return Row(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        row.failed = f"not done after {SECONDS} s"
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        row.failed = f"the process ended with status {done.returncode}: {last}"
    return row


# ---- the table -----------------------------------------------------------------------------------


def report(chosen: Sequence[Case], options: argparse.Namespace, onnx: bool) -> int:
    """Measure and print; return the exit status."""
    console, rows = Console(width=None if sys.stdout.isatty() else 220), list[Row]()
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda case: apart(case, onnx), chosen):
            rows.append(row)
            told = dict(zip(HEADINGS, cells(row, onnx), strict=True))
            console.print(f"{row.name}: {told['verdict']} ({row.seconds:.0f} s)", markup=False)
            if options.json:
                options.json.write_text(json.dumps([asdict(one) for one in rows], indent=1))
    if options.markdown:
        print("\n".join(markdown(rows, onnx)))
    else:
        table = Table(*HEADINGS, title="fxprune on the torchvision zoo")
        for row in rows:
            table.add_row(*map(escape, cells(row, onnx)))
        console.print(table)
    console.print(summary(rows, onnx), markup=False)
    return int(any(row.faults(onnx) for row in rows) or not rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*", help="a shell pattern that names models")
    parser.add_argument("--group", default=",".join(GROUPS), help="cls,seg,video,flow,det")
    parser.add_argument("--no-onnx", action="store_true", help="leave ONNX Runtime out")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    onnx = not options.no_onnx
    if options.worker:
        print(json.dumps(asdict(measure(Case(options.worker, options.group), onnx))))
        return
    sys.exit(report(cases(options.group.split(","), options.only), options, onnx))


if __name__ == "__main__":
    main()
