"""Search relative rates with optuna, alone or with other processes that share its storage."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from fxprune import distributed
from fxprune.allocators.proposals import distributions, proposer
from fxprune.allocators.rates import met, uniform
from fxprune.allocators.registry import TRIALS, Choice, Needs, Problem, allocator
from fxprune.errors import FileError, SpecError, first_line, root_cause

if TYPE_CHECKING:
    import optuna

PAUSE = 0.2  # seconds between two looks at what other processes do
PATIENCE = 60.0  # seconds after which a trial of another machine may be taken for dead
ALIKE = 1e-2  # relative: scores of one model on two machines differ by less


@allocator("optuna")
@dataclass(frozen=True)
class Optuna:
    """Search relative rates of targets by TPE or CMA-ES (Akiba et al. 2019, arXiv:1907.10902).

    TPE (Bergstra et al. 2011) models rates of good and of bad trials; CMA-ES (Hansen, arXiv:
    1604.00772) moves a normal distribution towards good ones. With "cma-es" this is AMC (He et al.
    2018, arXiv:1802.03494): a learned ratio a layer, each candidate completed to the resource
    asked, its reward the evaluator's value; CMA-ES stands in for the paper's DDPG agent. The
    paper's other reward, error·log FLOPs, is for searches without a budget, and every search here
    has one.

    Trials are written to the study `study` of `storage`, an URL such as sqlite:///search.db, or
    None for this process alone; each step of a schedule has its own. Any number of processes and
    machines may share one: each runs until the study has `trials` complete ones, and all return
    the best of them. What is tried next follows from the complete trials and the seed alone, so
    that a search that was killed resumes to the same result.
    """

    sampler: Literal["tpe", "cma-es"] = "tpe"
    trials: int = 100
    seed: int = 0
    storage: str | None = None
    study: str = "fxprune"
    needs: ClassVar[Needs] = "evaluate"

    def __post_init__(self) -> None:
        if not 1 <= self.trials <= TRIALS or self.seed < 0 or not self.study:
            raise ValueError(
                f"trials={self.trials} (1 to {TRIALS:,}), seed={self.seed} (0 or more), "
                f"study={self.study!r} (a name): one is out of its range"
            )

    def choose(self, problem: Problem) -> Choice:
        """Return the best choice of all trials of the study."""
        if len(problem.targets) < 2:
            return problem.meet(lambda moves: moves.share)
        with _quiet(self.storage):
            return _Search(self, problem).best()


class _Search:
    """Run the trials of one study; under `torch.distributed` the first process asks and tells."""

    def __init__(self, options: Optuna, problem: Problem) -> None:
        self._options, self._problem = options, problem
        self._names = [target.name for target in problem.targets]
        self._propose = proposer(options.sampler)
        self._best = -np.inf

    def best(self) -> Choice:
        problem = self._problem
        while (rates := distributed.from_first(self._next)) is not None:
            choice = met(problem, rates)
            try:
                score = problem.evaluate(choice)
            except BaseException:
                if distributed.first():
                    self._study.tell(self._mine, state=_failed())
                raise
            if distributed.first():
                self._study.tell(self._mine, score)
                self._said(score)
        return met(problem, distributed.from_first(self._winner))

    def _said(self, score: float) -> None:
        if score > self._best:
            self._best = score
            done = len(self._done())
            self._problem.say(
                f"optuna: {done} of {self._options.trials}: {score:.4g} is the best here"
            )

    def _winner(self) -> tuple[float, ...]:
        """Return the rates of the best trial, of those that meet the goal if there are any."""
        done = self._done()[: self._options.trials]
        best = max(done, key=lambda one: (bool(one.user_attrs.get("near")), one.value or 0.0))
        return self._rates(best)

    # ---- the study -------------------------------------------------------------------------------

    @cached_property
    def _study(self) -> optuna.Study:
        """Return the study of this step of the schedule; raises SpecError where it is another's."""
        import optuna

        options = self._options
        name = f"{options.study}/{1.0 - self._problem.objective.sparsity:.6g}"
        try:
            study = _opened(
                lambda: optuna.create_study(
                    storage=options.storage,
                    study_name=name,
                    direction="maximize",
                    load_if_exists=True,
                )
            )
        except Exception as error:
            raise SpecError(
                f"allocation.storage: {options.storage!r} cannot be opened: {first_line(error)}; "
                "give an URL such as sqlite:///search.db"
            ) from error
        mine = self._belongs()
        if _other(study.user_attrs.setdefault("belongs", mine), mine):
            raise SpecError(
                f"allocation.study: {name!r} in {options.storage} is of another model, metric or "
                "objective; name another study"
            )
        study.set_user_attr("belongs", mine)
        return study

    def _belongs(self) -> list[Any]:
        problem = self._problem
        means = [float(scores.mean()) for scores in problem.scores]
        sizes = [len(target) for target in problem.targets]
        return [type(problem.objective).__name__, self._names, sizes, means]

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _done(self) -> list[optuna.trial.FrozenTrial]:
        """Return the complete trials, the earliest first."""
        done = [one for one in self._trials() if one.state.name == "COMPLETE"]
        return sorted(done, key=lambda one: one.number)

    def _rates(self, trial: optuna.trial.FrozenTrial) -> tuple[float, ...]:
        return tuple(float(trial.params[name]) for name in self._names)

    # ---- what is next ----------------------------------------------------------------------------

    def _next(self) -> tuple[float, ...] | None:
        """Reserve a trial and return its rates; None when the study is complete.

        While others run the last trials this waits for them: one of them may die.
        """
        wanted = self._options.trials
        while len(done := self._done()) < wanted:
            busy = self._busy()
            if len(done) + len(busy) >= wanted:
                time.sleep(PAUSE)
            elif (rates := self._claimed(done, len(busy))) is not None:
                return rates
        return None

    def _claimed(
        self, done: Sequence[optuna.trial.FrozenTrial], others: int
    ) -> tuple[float, ...] | None:
        """Write down what is tried next; None where another process was faster."""
        import optuna

        values = [float(one.value or 0.0) for one in done]
        history = list(zip(map(self._rates, done), values, strict=True))
        # Beside others that run, another stream of chance: not the candidate that they try.
        seed = self._options.seed + len(done) + 1_000_003 * others
        first = not done and not others
        rates = uniform(self._problem) if first else self._propose(history, len(self._names), seed)
        near = self._problem.near(met(self._problem, rates))
        token = f"{socket.gethostname()}:{os.getpid()}:{next(_COUNTER)}"
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=dict(zip(self._names, rates, strict=True)),
                distributions=dict(zip(self._names, distributions(len(rates)), strict=True)),
                user_attrs={"worker": token, "near": near},
            )
        )
        mine = next(one for one in self._trials() if one.user_attrs.get("worker") == token)
        self._mine = mine.number
        earlier = [one for one in self._busy(token) if one.number < mine.number]
        complete = len(self._done())
        taken = any(one.params == mine.params for one in earlier)
        if taken or complete + len(earlier) >= self._options.trials:
            self._study.tell(self._mine, state=_failed())
            return None
        return rates

    def _busy(self, mine: str = "") -> list[optuna.trial.FrozenTrial]:
        """Return what other processes run now; those that died are marked as failed."""
        busy: list[optuna.trial.FrozenTrial] = []
        limit = max(PATIENCE, 10.0 * max((_seconds(one) for one in self._done()), default=PATIENCE))
        for one in self._trials():
            if one.state.name != "RUNNING" or one.user_attrs.get("worker") == mine:
                continue
            if _alive(one, limit):
                busy.append(one)
            else:
                self._study.tell(one.number, state=_failed(), skip_if_finished=True)
        return busy


_COUNTER = itertools.count()


def _failed() -> Any:
    import optuna

    return optuna.trial.TrialState.FAIL


def _seconds(trial: optuna.trial.FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration is not None else 0.0


def _alive(trial: optuna.trial.FrozenTrial, limit: float) -> bool:
    """Tell whether a process still works on a trial: on this machine its process says so.

    Of another machine, one counts as dead that takes ten times as long as any before.
    """
    host, _, rest = str(trial.user_attrs.get("worker", "")).rpartition(":")[0].rpartition(":")
    if host == socket.gethostname():
        return int(rest) != os.getpid() and _runs(int(rest))
    started = trial.datetime_start
    return bool(host) and started is not None and time.time() - started.timestamp() < limit


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _other(one: Sequence[Any], two: Sequence[Any]) -> bool:
    """Tell whether two studies are of different problems; scores may differ by a hair."""
    if list(one[:3]) != list(two[:3]):
        return True
    return not np.allclose(one[3], two[3], rtol=ALIKE, atol=1e-12)


def _opened(create: Callable[[], optuna.Study]) -> optuna.Study:
    """Return a study; where processes create the tables of one file at once, some must wait."""
    for pause in (0.1, 0.5, 1.0, 2.0):
        try:
            return create()
        except Exception as error:
            if not any(word in str(error) for word in ("exists", "locked", "UNIQUE")):
                raise
            time.sleep(pause)
    return create()


@contextmanager
def _quiet(storage: str | None) -> Iterator[None]:
    """Keep optuna from writing to the terminal.

    Raises SpecError where it is not installed, FileError where the storage fails in use.
    """
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError  # what optuna stores with
    except ImportError:
        raise SpecError(
            "allocation: optuna is not installed; pip install fxprune[search]"
        ) from None
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as error:
        raise FileError(
            f"allocation.storage: {storage!r} fails: {root_cause(error, 200)}; name another"
        ) from error
    finally:
        optuna.logging.set_verbosity(before)
