"""The calls of the library: prune, analyze, run, save, load, export_onnx."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load
from safetensors.torch import save as to_bytes
from torch.export import ExportedProgram

from fxprune import archive, onnx, pipeline
from fxprune.calibration import Loss
from fxprune.calling import Callbacks
from fxprune.capture import capture, evaluating, quiet
from fxprune.cost import Cost
from fxprune.errors import ExportError, FileError, first_line
from fxprune.masks import attach
from fxprune.plan import Plan
from fxprune.program import Program, Signature, set_tensor, tensors_of
from fxprune.report import Report
from fxprune.shrinking import aliases
from fxprune.slim import SlimModule
from fxprune.spec import Spec
from fxprune.targets import Discovery, Pinned, Target

Model = torch.nn.Module | ExportedProgram
Path_ = str | os.PathLike[str]


def prune(
    model: Model,
    spec: Spec | Mapping[str, Any] | str | Path,
    inputs: Any = None,
    *,
    calibrate: Iterable[Any] | None = None,
    loss: Loss | None = None,
    evaluate: Callable[[torch.nn.Module], float] | None = None,
    fine_tune: Callable[[torch.nn.Module, int], None] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    checkpoint: Path_ | None = None,
    progress: bool | Callable[[str], None] = False,
) -> SlimModule:
    """Return a smaller module to use like `model`, which is left as it is.

    `spec` says what to prune, by what and how much: a mapping, a `Spec`, the path of a TOML, YAML
    or JSON file, or the name of a preset. `inputs` is a tuple of example inputs, a dict of keyword
    arguments, or a pair of both; an `ExportedProgram` brings its own. The result has a `report` and
    a `plan`.

    Some metrics need data: `calibrate` iterates over batches (tensor, tuple or dict; labels may
    ride along), and `loss(module, batch)` returns a scalar tensor. Allocations that search ask
    `evaluate(module)` for a number, higher is better. After each step of the schedule, and as often
    before the first as it warms up, `fine_tune(module, step)` trains the module in place; `step`
    counts these calls from 0. An `optimizer` over the model's parameters is carried from module to
    module, its momentum cut to what is left. With a `checkpoint` folder a run that was killed goes
    on where it was when called again alike. `progress` shows how it goes on.

    Raises SpecError, InputError, CalibrationError, CallbackError, CaptureError, CheckpointError,
    ObjectiveError or VerifyError, each with one line that names the place, the fact and the next
    step.
    """
    from fxprune.loop import prune_in_steps  # late: it stands above the passes

    calls = Callbacks.of(calibrate, loss, evaluate, fine_tune, optimizer, checkpoint, progress)
    return prune_in_steps(model, Spec.of(spec), inputs, calls)


def run(model: Model, passes: str, inputs: Any = None) -> SlimModule:
    """Run the named passes on a model, as in `"couple,score,allocate{ratio=0.5},shrink,restore"`.

    What the passes leave undone of a module that can be used and saved is done after them.
    """
    import passes as _passes

    steps = parse_passes(passes)
    program = pipeline.run(capture(model, inputs), steps)
    if "restored" not in program.facts:
        program = pipeline.run(program, [_passes.PASSES["restore"]()])
    return finished(program, {"passes": passes})


def finished(program: Program, spec: Mapping[str, Any]) -> SlimModule:
    """Return the module of a restored program, with its report, plan and signature."""
    slim = cast(SlimModule, program.module)
    slim.signature = program.signature
    if program.plan is not None:
        slim.plan = Plan(program.plan.kept, program.plan.targets, spec)
        slim.report = Report.of(program)
    return slim


@dataclass(frozen=True)
class Analysis:
    """Hold what could be pruned of a model: nothing has been.

    `coverage` is the share of parameters that lie in at least one unit of a target; `macs` are
    multiply-accumulates for one example.
    """

    targets: tuple[Target, ...]
    pinned: tuple[Pinned, ...]
    coverage: float
    parameters: int
    macs: int
    bytes: int
    notes: tuple[str, ...]


def analyze(model: Model, inputs: Any = None) -> Analysis:
    """Return the targets of a model, what is pinned and why, and the coverage."""
    from passes.couple import Couple

    program = pipeline.run(capture(model, inputs), [Couple()])
    discovery = cast(Discovery, program.discovery)
    cost = Cost(program.module, discovery.coupling, program.signature.batch)
    whole = cost.whole()
    return Analysis(
        discovery.targets,
        discovery.pinned,
        discovery.coverage,
        cost.every_param(),
        cost.macs(whole),
        cost.every_byte(),
        program.notes,
    )


def save(slim: SlimModule, path: Path_) -> None:
    """Write a pruned module with its plan and report as one `.pt2`, atomically.

    Raises FileError where the file cannot be written.
    """
    signature = _signature(slim, None)
    extra = {"fxprune.json": _described(slim, signature)}
    if slim.plan is not None:
        extra["fxprune.plan.json"] = slim.plan.to_json()
        indices = to_bytes(slim.plan.tensors())
        extra["fxprune.plan.safetensors"] = base64.b64encode(indices).decode()
    if slim.report is not None:
        extra["fxprune.report.json"] = slim.report.to_json()
    archive.save_exported(_exported(slim, signature), path, extra)


def load_module(path: Path_, *, trust: bool = False) -> SlimModule:
    """Read a `.pt2` that `save` or `torch.export.save` wrote, as a module to use.

    The file is looked into first; what would run code is refused unless `trust`.
    Raises FileError or UntrustedFileError.
    """
    import passes

    exported, extra = archive.load_exported(path, trust=trust)
    program = pipeline.run(capture(exported), [passes.PASSES["restore"]()])
    slim = finished(program, {})
    try:
        _describe(slim, extra)
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path}: what fxprune wrote beside the program is damaged: {error}"
        ) from error
    return slim


def export_onnx(model: torch.nn.Module, path: Path_, inputs: Any = None) -> onnx.ExportSummary:
    """Write a module as one ONNX file, compared with the module in ONNX Runtime first.

    A pruned module brings its example inputs; any other module needs `inputs`. The leading axis
    is dynamic where the module allows it. Raises ExportError or FileError; no part of a file stays.
    """
    signature = _signature(model, inputs)
    from fxprune import __version__  # which imports this file

    metadata = {"format": "1", "version": __version__, "torch": torch.__version__}
    if isinstance(model, SlimModule):
        metadata["spec"] = json.dumps(dict(model.plan.spec) if model.plan is not None else {})
        if model.report is not None:
            costs = {
                k: v for k, v in model.report.to_dict().items() if k.endswith(("before", "after"))
            }
            metadata["costs"] = json.dumps(costs)
    shapes = signature.dynamic_shapes(model)
    return onnx.export(
        model, path, signature.args, signature.kwargs, dynamic_shapes=shapes, metadata=metadata
    )


def _signature(model: torch.nn.Module, inputs: Any) -> Signature:
    known = model.signature if isinstance(model, SlimModule) else None
    if inputs is None and isinstance(known, Signature):
        return known
    return capture(model, inputs).signature


def _exported(slim: SlimModule, signature: Signature) -> ExportedProgram:
    """Export with no more than two examples, which the file will hold, where two are enough."""
    shapes = signature.dynamic_shapes(slim)
    try:
        with evaluating(slim), torch.no_grad(), quiet():
            if (signature.batch or 0) > 2:
                with suppress(Exception):  # such as a batch that must be a multiple of four
                    args, kwargs = signature.resized(2)
                    return torch.export.export(
                        slim, args, kwargs, dynamic_shapes=shapes, strict=False
                    )
            return torch.export.export(
                slim, signature.args, signature.kwargs, dynamic_shapes=shapes, strict=False
            )
    except Exception as error:  # the exporter raises what it likes
        raise ExportError(
            f"save: torch.export refuses the pruned module: {first_line(error)}"
        ) from error


def _described(slim: SlimModule, signature: Signature) -> str:
    tied = [names for names in aliases(slim).values() if len(names) > 1]
    facts = {"format": 1, "training": slim.training, "batch": signature.batch, "tied": tied}
    return json.dumps(facts)


def _describe(slim: SlimModule, extra: Mapping[str, str]) -> None:
    """Put back what `save` wrote beside the program."""
    if "fxprune.json" in extra:
        facts = json.loads(extra["fxprune.json"])
        slim.train(bool(facts["training"]))
        for first, *others in facts["tied"]:
            tensor = tensors_of(slim)[first]
            for name in others:
                set_tensor(slim, name, tensor, persistent=name in slim.state_dict())
    if "fxprune.plan.json" in extra:
        tensors = load(base64.b64decode(extra["fxprune.plan.safetensors"]))
        slim.plan = Plan.of(extra["fxprune.plan.json"], tensors)
    if "fxprune.report.json" in extra:
        slim.report = Report.from_json(extra["fxprune.report.json"])
    if slim.plan is not None and slim.plan.masks:
        own = dict(slim.named_parameters(remove_duplicate=False))
        attach(slim, {name: mask for name, mask in slim.plan.masks.items() if name in own})


def analysis_json(analysis: Analysis) -> str:
    """Return an analysis as JSON."""
    data = {
        "parameters": analysis.parameters,
        "macs": analysis.macs,
        "bytes": analysis.bytes,
        "coverage": analysis.coverage,
        "targets": [
            {"name": t.name, "kind": t.kind, "units": len(t), "exact": t.exact, "why": t.why}
            for t in analysis.targets
        ],
        "pinned": [vars(pinned) for pinned in analysis.pinned],
        "notes": list(analysis.notes),
    }
    return json.dumps(data, indent=1)


def parse_passes(text: str) -> tuple[pipeline.Pass, ...]:
    """Parse a list of passes, every pass of the distribution known."""
    import passes  # registers them

    assert passes.PASSES
    return pipeline.parse(text)


def described_passes() -> list[tuple[str, str, str]]:
    """Return the name, options and one line of every pass."""
    import passes

    described: list[tuple[str, str, str]] = []
    for name, cls in sorted(passes.PASSES.items()):
        listed = ", ".join(f"{o.name}: {o.type} = {o.default}" for o in pipeline.options(cls))
        line = (cls.__doc__ or "").strip().splitlines()[0]
        described.append((name, f"{{{listed}}}" if listed else "", line))
    return described
