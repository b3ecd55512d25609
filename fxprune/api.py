"""The calls of the library: prune, analyze, run, save, load, export_onnx."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import torch
from safetensors.torch import load as of_bytes
from safetensors.torch import save as to_bytes
from torch.export import ExportedProgram, export

from fxprune import onnx, pipeline
from fxprune._version import __version__
from fxprune.capture import Dynamic, Outputs, capture, marks_of, placed, put, unwrapped
from fxprune.contexts import evaluating, quiet, unsolved
from fxprune.errors import (
    ExportError,
    FileError,
    FxpruneError,
    SpecError,
    first_line,
    root_cause,
    unknown,
)
from fxprune.files import archive
from fxprune.graphs import set_tensor, tensors_of
from fxprune.loop import Callbacks, prune_in_steps
from fxprune.loop.named_passes import described_passes as described_passes
from fxprune.loop.named_passes import parse_passes as parse_passes
from fxprune.loop.progress import Wanted, shown
from fxprune.metrics import Calibration, Loss
from fxprune.passes import PASSES, verified
from fxprune.plan import Plan
from fxprune.program import Program, Restored
from fxprune.report import Analysis, Report
from fxprune.report.picture import Picture
from fxprune.signature import Signature, read, written
from fxprune.spec import Spec
from fxprune.spec.modules import with_names
from fxprune.surgery import SlimModule, aliases, attach
from fxprune.surgery.own_gradients import unsaved

Model = torch.nn.Module | ExportedProgram
Path_ = str | os.PathLike[str]
M = TypeVar("M", bound=torch.nn.Module)


@overload
def prune(
    model: M,
    spec: Spec | Mapping[str, Any] | str | Path,
    inputs: Any = None,
    *,
    calibrate: Iterable[Any] | None = None,
    loss: Loss | None = None,
    evaluate: Callable[[torch.nn.Module], float] | None = None,
    fine_tune: Callable[[torch.nn.Module, int], None] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    checkpoint: Path_ | None = None,
    progress: Wanted = None,
    dynamic: Dynamic = "auto",
    outputs: Outputs = None,
    part: str | None = None,
    result: Literal["module"],
) -> M: ...


@overload
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
    progress: Wanted = None,
    dynamic: Dynamic = "auto",
    outputs: Outputs = None,
    result: Literal["graph"] = "graph",
) -> SlimModule: ...


def prune(
    model: Any,
    spec: Spec | Mapping[str, Any] | str | Path,
    inputs: Any = None,
    *,
    calibrate: Iterable[Any] | None = None,
    loss: Loss | None = None,
    evaluate: Callable[[torch.nn.Module], float] | None = None,
    fine_tune: Callable[[torch.nn.Module, int], None] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    checkpoint: Path_ | None = None,
    progress: Wanted = None,
    dynamic: Dynamic = "auto",
    outputs: Outputs = None,
    part: str | None = None,
    result: Literal["graph", "module"] = "graph",
) -> Any:
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
    module, its momentum cut to the kept indices. With a `checkpoint` folder a run that was killed
    resumes when it is called again with the same arguments. What takes more than two seconds shows
    a bar in a terminal or a notebook; `progress=True` prints lines as well, "verbose" those of
    solvers too; a function is called with them, and False shows nothing. The logger `fxprune` gets
    them all.

    Every axis of the inputs that the model lets vary stays free, in the result, in what `save`
    writes and in ONNX; what had to be fixed is in the report, and a call with another size is
    refused. `dynamic="batch"` leaves only leading axes free, and what `torch.export.export` takes
    as `dynamic_shapes` those that it names.

    `outputs` names the parts of the result that count, by name or place, as in `["logits"]` or
    `[0]`: the others pin nothing, and are not in the result. What no graph returns, such as a
    cache, is left out by itself, with a note.

    With `result="module"` a copy of the model is narrowed and returned, with its own class, methods
    and attributes; targets whose widths the class cannot say are left out, and the report says why.
    `part="backbone"` prunes just that part of it, on what it is given when the model runs on
    `inputs`: a detector whose boxes no graph can select is pruned so.

    Raises SpecError, InputError, CalibrationError, CallbackError, CaptureError, CheckpointError,
    ObjectiveError, VerifyError or WriteBackError, each with one line that names the place, the fact
    and the next step.
    """
    calls = Callbacks.of(
        calibrate, loss, evaluate, fine_tune, optimizer, checkpoint, progress, dynamic, outputs
    )
    if part is not None:
        if result != "module":
            raise SpecError('part: a part is pruned in its place; say result="module" as well')
        from fxprune.loop.parts import prune_part  # it captures, which takes loading

        return prune_part(model, part, Spec.of(with_names(spec, model)), inputs, calls)
    if result == "graph":
        return prune_in_steps(model, Spec.of(with_names(spec, model)), inputs, calls)
    if result != "module":
        raise SpecError(f"result: {unknown('form', result, ('graph', 'module'))}")
    from fxprune.loop.own_module import prune_own_class  # it captures, which takes loading

    return prune_own_class(model, Spec.of(with_names(spec, model)), inputs, calls)


def run(
    model: Model,
    passes: str,
    inputs: Any = None,
    *,
    calibrate: Iterable[Any] | None = None,
    verify: bool = True,
    dynamic: Dynamic = "auto",
    outputs: Outputs = None,
) -> SlimModule:
    """Run the named passes on a model, as in `"couple,score,allocate{ratio=0.5},shrink,restore"`.

    `calibrate` iterates over batches, for the passes that need data, such as `repair`.
    What the passes leave undone of a module that can be used and saved is done after them; what
    they shrank is verified, unless `verify` is False. `dynamic` and `outputs` are those of `prune`.
    """
    steps = parse_passes(passes)
    with shown("capture") as watch:
        program = capture(model, inputs, dynamic, outputs).with_(Calibration(calibrate))
        program = replace(program, stage=watch.stage)
        program = pipeline.run(program, verified(steps) if verify else steps)
        if Restored not in program:
            program = pipeline.run(program, [PASSES["restore"]()])
    return finished(program, {"passes": passes})


def apply(plan: Plan, model: M, inputs: Any = None) -> M:
    """Narrow a new model, built like the one that was pruned, as `plan` says, and return it.

    It is narrowed in place: its class, its methods and its attributes stay, and `load_state_dict`
    takes the pruned weights. What it computes is proven to be what the plan keeps of it; else it is
    left as it was. `inputs` are example inputs, where the plan does not know how they look. A model
    on the meta device is compared by its graph alone, and takes the weights with `assign=True`.

    Raises InputError where the plan is of another model, and WriteBackError where the class cannot
    say some width, with the line that is in the way and the targets to leave out.
    """
    from fxprune.surgery.own_class import apply as applied  # it captures, which takes loading

    return applied(plan, model, inputs)


def finished(program: Program, spec: Mapping[str, Any]) -> SlimModule:
    """Return the module of a restored program, with its report, plan and signature."""
    slim = cast(SlimModule, program.module)
    slim.signature = program.signature
    plan = program.get(Plan)
    if plan is not None:
        slim.plan = Plan(plan.kept, plan.targets, spec)
        slim.report = Report.of(program.with_(slim.plan))
    return slim


def analyze(
    model: Model, inputs: Any = None, *, dynamic: Dynamic = "auto", outputs: Outputs = None
) -> Analysis:
    """Return the targets of a model, what is pinned and why, and the coverage.

    It says as well which axes of the inputs are free; `dynamic` and `outputs` are those of `prune`.
    """
    with shown("capture") as watch:
        program = replace(capture(model, inputs, dynamic, outputs), stage=watch.stage)
        return Analysis.of(pipeline.run(program, [PASSES["couple"]()]))


def save(slim: SlimModule, path: Path_) -> None:
    """Write a pruned module with its plan and report as one `.pt2`, atomically.

    Raises FileError where the file cannot be written.
    """
    with shown("export"):
        exported, signature = _exported(slim, _signature(slim, None))
    extra = {"fxprune.json": _described(slim, signature)}
    if slim.plan is not None:
        extra["fxprune.plan.json"] = slim.plan.to_json()
        indices = to_bytes(slim.plan.tensors())
        extra["fxprune.plan.safetensors"] = base64.b64encode(indices).decode()
    if slim.report is not None:
        report = replace(slim.report, notes=(*slim.report.notes, *unsaved(slim)))
        extra["fxprune.report.json"] = report.to_json()
        if report.picture is not None:
            extra["fxprune.picture.json"] = report.picture.to_json()
    archive.save_exported(exported, path, extra)


def load(path: Path_, *, trust: bool = False) -> SlimModule:
    """Read a `.pt2` that `save` or `torch.export.save` wrote, as a module to use.

    The file is examined first; what would run code is refused unless `trust`.
    Raises FileError or UntrustedFileError.
    """
    exported, extra = archive.load_exported(path, trust=trust)
    try:
        program = pipeline.run(capture(exported), [PASSES["restore"]()])
    except FxpruneError:
        raise
    except Exception as error:  # a program that nobody exported may be anything
        raise FileError(
            f"{path}: its program cannot be used: {root_cause(error, 200)}; export the model again"
        ) from error
    slim = finished(program, {})
    try:
        _describe(slim, extra)
    except Exception as error:  # what is not as it was written may be anything
        raise FileError(
            f"{path}: what fxprune wrote beside the program is damaged: {first_line(error)}"
        ) from error
    return slim


def export_onnx(
    model: torch.nn.Module, path: Path_, inputs: Any = None, *, dynamic: Dynamic = "auto"
) -> onnx.ExportSummary:
    """Write a module as one ONNX file, compared with the module in ONNX Runtime first.

    A pruned module brings its example inputs; any other module needs `inputs`. Axes that the module
    lets vary are dynamic in the file, and the comparison is made at a second size of each; where
    the exporter refuses that, only the leading ones are, and the summary's notes say why. `dynamic`
    is that of `prune`. Raises ExportError or FileError; no partial file is left.
    """
    signature = _signature(model, inputs, dynamic)
    metadata = {"format": "1", "version": __version__, "torch": torch.__version__}
    if isinstance(model, SlimModule):
        metadata["spec"] = json.dumps(dict(model.plan.spec) if model.plan is not None else {})
        if model.report is not None:
            costs = {
                k: v for k, v in model.report.to_dict().items() if k.endswith(("before", "after"))
            }
            metadata["costs"] = json.dumps(costs)
    with unwrapped(model) as plain, shown("export and comparison in ONNX Runtime"):
        try:
            return _written(plain, path, signature, metadata)
        except ExportError as refused:
            fewer = signature.batched()
            if fewer.axes == signature.axes:
                raise
            done = _written(plain, path, fewer, metadata)
            said = f"only leading axes are dynamic in the file: {first_line(refused)}"
            return replace(done, notes=(*done.notes, said))


def _written(
    module: torch.nn.Module, path: Path_, signature: Signature, metadata: Mapping[str, str]
) -> onnx.ExportSummary:
    """Write an ONNX file with the axes of a signature, compared at a second size of each."""
    second = signature.second_sizes()
    return onnx.export(
        module,
        path,
        signature.args,
        signature.kwargs,
        dynamic_shapes=signature.dynamic_shapes(module),
        metadata=metadata,
        batches=None if not signature.conditions else (),
        others=[signature.sized(second)] if second else [],
        axis_names=signature.axes,
    )


def _signature(model: torch.nn.Module, inputs: Any, dynamic: Dynamic = "auto") -> Signature:
    known = model.signature if isinstance(model, SlimModule) else None
    if inputs is None and isinstance(known, Signature):
        signature = placed(known, model)
        return signature.batched() if dynamic == "batch" else signature
    return capture(model, inputs, dynamic).signature


def _exported(slim: SlimModule, signature: Signature) -> tuple[ExportedProgram, Signature]:
    """Export with no more than two examples, which the file will hold, where two are enough.

    Where not all free axes can be so in the file, the leading ones are.
    """
    refused: Exception | None = None
    fewer = signature.batched()
    for one in [signature] if fewer.axes == signature.axes else [signature, fewer]:
        shapes = one.dynamic_shapes(slim)
        try:
            with evaluating(slim), torch.no_grad(), quiet(), unsolved():
                call = partial(export, slim, dynamic_shapes=shapes, strict=False)
                return one.on_few(call), one
        except Exception as error:  # the exporter raises what it likes
            refused = refused or error
    raise ExportError(
        f"save: torch.export refuses the pruned module: {first_line(refused)}"
    ) from refused


def _described(slim: SlimModule, signature: Signature) -> str:
    tied = [names for names in aliases(slim).values() if len(names) > 1]
    after = {"train" if mode else "eval": marks for mode, marks in slim.modes_after.items()}
    facts: dict[str, Any] = {
        "format": 1,
        "training": slim.training,
        "batch": signature.batch,
        "tied": tied,
    }
    facts["signature"] = written(signature)
    return json.dumps(facts | {"modes": marks_of(slim), "modes_after": after})


def _describe(slim: SlimModule, extra: Mapping[str, str]) -> None:
    """Put back what `save` wrote beside the program."""
    if "fxprune.json" in extra:
        facts = json.loads(extra["fxprune.json"])
        after = facts.get("modes_after", {})
        slim.modes_after = {mode == "train": dict(marks) for mode, marks in after.items()}
        put(slim, facts.get("modes", {"": bool(facts["training"])}))
        if "signature" in facts:
            slim.signature = read(slim.signature, facts["signature"])
        for first, *others in facts["tied"]:
            tensor = tensors_of(slim)[first]
            for name in others:
                _check_shape(tensors_of(slim)[name], tensor, f"tied: {name}")
                set_tensor(slim, name, tensor, persistent=name in slim.state_dict())
    if "fxprune.plan.json" in extra:
        tensors = of_bytes(base64.b64decode(extra["fxprune.plan.safetensors"]))
        slim.plan = Plan.of(extra["fxprune.plan.json"], tensors)
    if "fxprune.report.json" in extra:
        slim.report = Report.from_json(extra["fxprune.report.json"])
        if "fxprune.picture.json" in extra:
            picture = Picture.from_json(extra["fxprune.picture.json"])
            slim.report = replace(slim.report, picture=picture)
    if slim.plan is not None and slim.plan.masks:
        own = dict(slim.named_parameters(remove_duplicate=False))
        masks = {name: mask for name, mask in slim.plan.masks.items() if name in own}
        for name, mask in masks.items():
            _check_shape(mask, own[name], f"the mask of {name}")
        attach(slim, masks)


def _check_shape(found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    if found.shape != wanted.shape:
        raise ValueError(f"{what}: is of {tuple(found.shape)}, not {tuple(wanted.shape)}")
