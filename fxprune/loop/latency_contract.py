"""Time the smaller model in turn with the original, and say whether the latency asked is met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter

from fxprune import latency, pipeline
from fxprune.allocators import Choice
from fxprune.allocators.search import TOLERANCE as NEAR
from fxprune.allocators.search import out_of_reach
from fxprune.cost import OriginalWidths
from fxprune.errors import ObjectiveError, first_line
from fxprune.latency import Run, Timing, batch_of, clock_of, device, interleaved, resized_run
from fxprune.loop.latency_prediction import kernel_model
from fxprune.objectives.latency import Latency, milliseconds
from fxprune.passes import make
from fxprune.program import Part, Program, unheard
from fxprune.report import LatencyReport

TOLERANCE = 0.03  # relative: a measured latency so near to what was asked is as asked
CLOSER = 0.01  # how near a choice must come in the graph that stands for it
NEARER = 0.015  # what is built once more where it is met, but not as closely as this
ATTEMPTS = 8  # choices built and measured before the nearest is returned, and said to miss
MEASURED = " of the original, as measured"
Say = Callable[[str], None]
Point = tuple[float, float]  # shares of the original's: as predicted without correction, measured
Measure = Callable[[Program, Latency, bool], float | None]
"""Return the latency of a proposal as a share of the one asked, or None where no other is needed.

It is told for which goal it was proposed, and whether it is the fastest that there is."""


class LatencyContract:
    """Hold the original on its device, ready to be run again."""

    def __init__(
        self,
        program: Program,
        objective: Latency,
        say: Say = lambda text: None,
        part: Part = unheard,
    ) -> None:
        """Build the original on the device; raises SpecError where there is no such device."""
        self._device, self._part = device(objective.device), part
        say(f"latency: building and timing the original on {objective.device}")
        whole = pipeline.run(program, [make("restore", {})])
        self._batch = batch_of(program.signature, objective.batch)
        module, signature = whole.module, program.signature
        self._run = self._device(module, signature, objective.threads, self._batch)
        self._clock = clock_of(objective.device, objective.threads)
        self.original: Timing = self._timed([self._run])[0]
        # a time that was asked for is that time, however long the original takes just now
        goal = objective.goal
        self._asked = milliseconds(goal) if isinstance(goal, str) else None

    def _timed(self, runs: list[Run]) -> list[Timing]:
        return interleaved(runs, clock=self._clock)

    def kernels(self, program: Program, goal: Latency, say: Say) -> latency.KernelModel | str:
        """Return the model that predicts latencies of a program, or why there is none."""
        if goal.device != "ort-cpu":
            return f"objective.latency: {goal.device} has no table of kernels"
        try:
            model = kernel_model(program, goal, self._batch, say, self._part)
            if OriginalWidths not in program:
                return model
        except latency.Unlabelled as problem:
            return f"objective.latency: no kernel could be told from its widths: {problem}"
        whole = pipeline.run(program, [make("restore", {})])
        run = self._device(whole.module, whole.signature, goal.threads, self._batch)
        before, now = self._timed([self._run, run])
        return model.scaled(now.median / before.median)

    def settled(
        self,
        goal: Latency,
        kernels: latency.KernelModel,
        chosen: Callable[[Latency], Program],
        say: Say,
    ) -> Latency:
        """Correct the prediction by timing graphs as wide as what is chosen, until one is as asked.

        Nothing is removed and exported meanwhile: the graph of the model is made again at
        other widths, with weights that are made up.
        """

        def measure(program: Program, goal: Latency, fastest: bool) -> float | None:
            say("latency: timing the graph of a proposal")
            model = kernels.resized(program[Choice].alive)
            try:
                run = resized_run(model, program.signature, goal.threads, self._batch)
                before, after = self._timed([self._run, run])
            except Exception as problem:  # ONNX Runtime's exceptions share no public base class
                say(f"latency: nothing is measured ahead: {first_line(problem)}")
                return None
            ratio = after.median / before.median
            wanted = self._asked / before.median if self._asked else float(goal.goal)
            say(
                f"latency: predicted {program[Choice].achieved:.3f} of the original, "
                f"measured {ratio:.3f}, asked {wanted:.3f}"
            )
            if abs(ratio / wanted - 1.0) <= CLOSER:
                return None
            if fastest and ratio > wanted * (1.0 + TOLERANCE):
                return None  # it is for the file itself to say so
            return ratio / wanted

        return approached(goal, chosen, measure)

    def meet(
        self, goal: Latency, removed: Callable[[Latency], Program], say: Say
    ) -> tuple[Program, LatencyReport]:
        """Remove, measure and correct the prediction, until what is measured is what was asked.

        Return the nearest and its report, with a note where it misses. One that is barely met is
        built once more: the next measurement may find it on the other side.
        """
        tried: list[tuple[float, Program, LatencyReport]] = []

        def measure(program: Program, goal: Latency, fastest: bool) -> float | None:
            say(f"latency: building and timing proposal {len(tried) + 1}, of {ATTEMPTS} at most")
            found = self.compare(program, goal)
            say(str(found))
            relative = found.measured / found.requested
            tried.append((abs(relative - 1.0), program, found))
            if abs(relative - 1.0) <= NEARER or (found.met and len(tried) > 1):
                return None
            if fastest and relative > 1.0:
                asked = found.requested / found.original
                raise out_of_reach("latency", found.ratio, asked, MEASURED)
            return relative

        approached(goal, removed, measure)
        _, program, found = min(tried, key=itemgetter(0))
        return program.noted(*_notes(goal, found)), found

    def compare(self, program: Program, goal: Latency) -> LatencyReport:
        """Return how long a program takes, and the original beside it."""
        run = self._device(program.module, program.signature, goal.threads, self._batch)
        before, after = self._timed([self._run, run])
        requested = self._asked or float(goal.goal) * before.median
        off = after.median / requested - 1.0
        return LatencyReport(
            requested=requested,
            predicted=program[Choice].achieved * before.median,
            measured=after.median,
            original=before.median,
            ratio=after.median / before.median,
            low=after.low,
            high=after.high,
            met=(abs(off) if goal.sparsity else off) <= TOLERANCE,
            device=goal.device,
            threads=goal.threads,
            batch=self._batch,
        )


def approached(goal: Latency, chosen: Callable[[Latency], Program], measure: Measure) -> Latency:
    """Propose a choice, measure it, correct the prediction, until it is met or attempts are out.

    Return the goal as it was corrected last.
    """
    seen: list[Point] = []
    for _ in range(ATTEMPTS):
        program, fastest = propose(goal, chosen)
        relative = measure(program, goal, fastest)
        if relative is None:
            break
        seen.append((goal.uncorrected(program[Choice].achieved), relative * float(goal.goal)))
        goal = correct(goal, seen)
    return goal


def propose(goal: Latency, chosen: Callable[[Latency], Program]) -> tuple[Program, bool]:
    """Choose what meets a goal; where none is predicted to, the fastest, and True.

    Raises ObjectiveError where nothing can be chosen at all.
    """
    try:
        return chosen(goal), False
    except ObjectiveError as refused:
        if refused.least is None or refused.least >= 1.0:
            raise
        # as far below as is near enough, or else a choice that is no more than near would do
        return chosen(replace(goal, goal=refused.least / (1.0 + NEAR))), True


def correct(goal: Latency, seen: Sequence[Point]) -> Latency:
    """Return a goal whose prediction fits what was seen; one that removes nothing is kept."""
    return goal.corrected(seen) if goal.sparsity else goal


def _notes(goal: Latency, found: LatencyReport) -> list[str]:
    """Say where a latency is missed, and where the original meets it as it is."""
    if not found.met:
        return [f"objective.latency: {found}"]
    if goal.sparsity:
        return []
    return [
        f"objective.latency: the original takes {found.original:.3g} ms, no more than the "
        f"{found.requested:.3g} ms asked: nothing has to be removed"
    ]
