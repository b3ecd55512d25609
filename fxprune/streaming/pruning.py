"""Prune a checkpoint: plan once, write shard by shard, and go on where a killed run was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fxprune.capture.capturing import arguments
from fxprune.files.described_inputs import described
from fxprune.files.locking import locked
from fxprune.files.shards import Shards
from fxprune.loop.progress import Progress, Wanted
from fxprune.report import Report
from fxprune.spec import Spec
from fxprune.streaming.building import Build, built, on_meta
from fxprune.streaming.meter import Meter, amount
from fxprune.streaming.planning import Names, check, planned
from fxprune.streaming.unfinished import Unfinished
from fxprune.streaming.writing import Kept, cut_shard, size_of


def prune_checkpoint(
    folder: str | os.PathLike[str],
    spec: Spec | Mapping[str, Any] | str | Path,
    output: str | os.PathLike[str],
    model: Build | nn.Module | None = None,
    inputs: Any = None,
    *,
    copy: Sequence[str] = (),
    progress: Wanted = None,
) -> Report:
    """Prune a folder of safetensors into the folder `output`, one tensor in memory at a time.

    `folder` holds `model.safetensors.index.json` and its shards, or one `.safetensors`. `model` is
    the model on the meta device, or a function that builds it, called with the table of
    `config.json` if it needs an argument; without it the class that `config.json` names is taken
    from transformers. `inputs` are example inputs as `prune` takes them; of tensors the shapes and
    types are enough. Tensors that the model does not have are refused, unless a pattern in `copy`
    names them: they are copied as they are.

    The output has the same shards, its other files, and in `output/fxprune` the plan and the
    report: `fxprune.apply(Plan.load("output/fxprune/plan.json"), model)` narrows a new model, which
    then loads the weights. It appears when it is whole; until then what is done stands beside it,
    and the same call goes on from there after it was interrupted, to the same bytes.

    Metrics that need no data can be asked, in one step and without repair. What the pruned model
    computes is not verified with numbers: the smaller graph is run on the meta device.

    Raises SpecError, InputError, CaptureError, ObjectiveError, FileError or CheckpointError.
    """
    asked, shards, final = Spec.of(spec), Shards.of(Path(folder)), Path(output)
    check(asked)
    work = Unfinished.beside(final)
    whole, renamed = built(shards, model)
    names = Names.of(whole, renamed, shards, copy)
    args, kwargs = arguments(inputs)
    said = described(args, kwargs)
    watch, given = Progress(progress), on_meta((args, kwargs), whole)
    with watch, locked(work.folder):
        work.begin(shards, asked, whole, said, copy)
        with work.resumable():
            found = work.planned()
            if found is None:
                plan, report = planned(whole, given, asked, shards, names, watch)
                found = replace(plan, inputs=said), report
                work.keep(*found)
            plan, report = found
            kept = names.kept(plan)
            with watch.within("shrink"):
                _write(shards, kept, work, watch)
            work.finish(shards, kept)
    return replace(report, seconds=watch.seconds())


def _write(shards: Shards, kept: Kept, work: Unfinished, watch: Progress) -> None:
    """Write the shards that are not there yet."""
    sizes = {shard: size_of(shards, shard, kept) for shard in shards.names}
    left = [shard for shard in shards.names if not work.has(shard, sizes[shard])]
    if len(left) < len(shards.names):
        watch.say(f"{len(shards.names) - len(left)} of {len(shards.names)} shards are there")
    work.check_space(sum(sizes[shard] for shard in left))
    read = [entry.bytes_of(entry.shape) for e in left for entry in shards.of_shard(e).values()]
    meter = Meter("write", len(read), sum(read))
    with meter.shown():
        for shard in left:
            cut_shard(shards, shard, kept, work.folder / shard, meter)
            watch.say(f"{shard}: {amount(sizes[shard])} written; {meter}")
