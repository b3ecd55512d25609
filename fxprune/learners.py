"""Which metrics of a specification learn while the model is fine-tuned: each lesson only once."""

from __future__ import annotations

from dataclasses import fields

from fxprune.errors import SpecError
from fxprune.metrics import Learner
from fxprune.spec import Spec


def learners(spec: Spec) -> list[Learner]:
    """Return the metrics that learn, one of a kind.

    Raises SpecError where two of a kind differ in what they learn: they would learn it from the
    same weights. A reduction is no part of that, nor is a normalisation.
    """
    named = [("metric", spec.metric)]
    named += [(f"{spec.where(k)}.metric", t.metric) for k, t in enumerate(spec.target) if t.metric]
    found: dict[type, tuple[str, Learner]] = {}
    for where, one in named:
        made = one.made(where)
        if made.needs != "training" or not isinstance(made, Learner):
            continue
        earlier, learner = found.setdefault(type(made), (where, made))
        for option in fields(made):  # type: ignore[arg-type]
            mine, theirs = (getattr(each, option.name) for each in (made, learner))
            if option.name != "reduction" and mine != theirs:
                raise SpecError(
                    f"{where}: {one.name} with {option.name}={mine} would learn from the same "
                    f"weights as {earlier} with {option.name}={theirs}; give both the same "
                    f"{option.name}"
                )
    return [learner for _, learner in found.values()]
