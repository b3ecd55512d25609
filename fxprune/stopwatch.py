"""Time what is left against the original, in turn, and say whether the latency asked is met."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

from fxprune import pipeline
from fxprune.devices import Timing, batch_of, device, interleaved
from fxprune.objectives.latency import Latency, milliseconds
from fxprune.program import Program
from fxprune.report import LatencyReport
from passes import make

TOLERANCE = 0.03  # relative: a measured latency so near to what was asked is as asked
ATTEMPTS = 8  # choices built and measured before the nearest is handed over, and said to miss


class Stopwatch:
    """Hold the original on its device, ready to be run again."""

    def __init__(self, program: Program, objective: Latency) -> None:
        """Build the original on the device; raises SpecError where there is no such device."""
        self._device = device(objective.device)
        whole = pipeline.run(program, [make("restore", {})])
        self._batch = batch_of(program.signature, objective.batch)
        module, signature = whole.module, program.signature
        self._run = self._device(module, signature, objective.threads, self._batch)
        self.original: Timing = interleaved([self._run])[0]
        # a time that was asked for is that time, however long the original takes just now
        goal = objective.goal
        self._asked = milliseconds(goal) if isinstance(goal, str) else None

    def meet(
        self, goal: Latency, removed: Callable[[Latency], Program], say: Callable[[str], None]
    ) -> tuple[Program, LatencyReport]:
        """Remove, measure and correct the prediction, until what is measured is what was asked.

        Return the nearest and its report, with a note where it misses.
        """
        share, seen = float(goal.goal), list[tuple[float, float]]()
        tried: list[tuple[float, Program, LatencyReport]] = []
        for _ in range(ATTEMPTS):
            program = removed(goal)
            found = self.compare(program, goal)
            say(str(found))
            relative = found.measured / found.requested
            tried.append((abs(relative - 1.0), program, found))
            if found.met:
                break
            seen.append((goal.macs(program.achieved), relative * share))
            goal = goal.corrected(seen)
        _, program, found = min(tried, key=itemgetter(0))
        return (program if found.met else program.noted(f"objective.latency: {found}")), found

    def compare(self, program: Program, goal: Latency) -> LatencyReport:
        """Return how long a program takes, and the original beside it."""
        run = self._device(program.module, program.signature, goal.threads, self._batch)
        before, after = interleaved([self._run, run])
        share = goal.goal
        assert isinstance(share, float)
        requested = self._asked or share * before.median
        return LatencyReport(
            requested=requested,
            predicted=program.achieved * before.median,
            measured=after.median,
            original=before.median,
            ratio=after.median / before.median,
            low=after.low,
            high=after.high,
            met=abs(after.median / requested - 1.0) <= TOLERANCE,
            device=goal.device,
            threads=goal.threads,
            batch=self._batch,
        )
