"""Propose rates from those that were tried: a function of trials and seed, without a memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fxprune.allocators.rates import EQUAL, LEAST, MOST
from fxprune.errors import SpecError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

History = Sequence[tuple[tuple[float, ...], float]]  # rates and scores, in the order of the trials
Propose = Callable[[History, int, int], tuple[float, ...]]  # of a history, a size and a seed
SPREAD = 0.2  # the standard deviation of the first generation


def proposer(name: str) -> Propose:
    """Return a sampler by its name; raises SpecError where it is not installed."""
    if name == "tpe":
        return by_tpe
    try:
        import cmaes  # noqa: F401
    except ImportError:
        raise SpecError("allocation: cmaes is not installed; pip install fxprune[search]") from None
    return by_cma_es


def distributions(size: int) -> list[BaseDistribution]:
    """Return what optuna is told about each rate."""
    from optuna.distributions import FloatDistribution

    return [FloatDistribution(LEAST, MOST) for _ in range(size)]


def by_tpe(history: History, size: int, seed: int) -> tuple[float, ...]:
    """Return what a tree-structured Parzen estimator tries next.

    The trials are replayed into a study of their own, where none is missing and none is running:
    numbers of trials in the shared one depend on who was killed when.
    """
    import optuna

    names = [str(k) for k in range(size)]
    space: dict[str, Any] = dict(zip(names, distributions(size), strict=True))
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(
        optuna.trial.create_trial(
            params=dict(zip(names, rates, strict=True)), distributions=space, value=value
        )
        for rates, value in history
    )
    params = study.ask(fixed_distributions=space).params
    return tuple(float(params[name]) for name in names)


def by_cma_es(history: History, size: int, seed: int) -> tuple[float, ...]:
    """Return a sample of the generation that follows from the complete ones.

    A generation is as many trials, in their order, as the population counts; where processes share
    a study, some of them were drawn from the generation before, which slows it down a little.
    """
    from cmaes import CMA

    bounds = np.tile([LEAST, MOST], (size, 1))
    search = CMA(mean=np.full(size, EQUAL), sigma=SPREAD, bounds=bounds, seed=seed)
    count = search.population_size
    for start in range(0, len(history) - count + 1, count):
        solutions = [(np.array(x), -value) for x, value in history[start : start + count]]
        search.tell(solutions)
    return tuple(float(np.clip(x, LEAST, MOST)) for x in search.ask())
