"""What can be wrong with a specification, and what must be said of it."""

from __future__ import annotations

from typing import Any

HALF = {"objective": {"ratio": 0.5}}

WRONG: dict[str, tuple[Any, str]] = {
    "no objective": ({}, "objective: is needed, as in"),
    "no table": (3, "a table is needed, not int"),
    "none": (None, "a table is needed, not NoneType"),
    "a list": ([1], "a table is needed, not list"),
    "an unknown key": ({**HALF, "objectives": 1}, 'unknown key "objectives"; did you mean "obj'),
    "a key inside": ({**HALF, "target": {"kinds": "x"}}, 'target: unknown key "kinds"; did you'),
    "a bound": ({**HALF, "allocation": {"min_kep": 1}}, 'did you mean "min_keep"?'),
    "an objective": ({"objective": {"flops": 0.5}}, 'objective: unknown key "flops"; known: ratio'),
    "two objectives": ({"objective": {"ratio": 0.5, "macs": 0.5}}, "give exactly one of ratio"),
    "no objective inside": ({"objective": {}}, "give exactly one of ratio, params, macs"),
    "a number for it": ({"objective": 0.5}, "objective: 0.5: a table is needed"),
    "a text for a number": (
        {"objective": {"macs": "half"}},
        "objective.macs: 'half': input",
    ),
    "a truth": ({"objective": {"macs": True}}, "objective.macs: True: input should be a valid num"),
    "below": ({"objective": {"macs": 0}}, "objective.macs: 0: input should be greater than 0"),
    "above": ({"objective": {"params": 1.5}}, "objective.params: 1.5: input should be less than"),
    "all of it": ({"objective": {"ratio": 1.0}}, "objective.ratio: 1.0: input should be less than"),
    "no number": ({"objective": {"macs": float("nan")}}, "objective.macs: nan"),
    "no unit at all": ({**HALF, "allocation": {"min_keep": 0}}, "allocation.min_keep: 0"),
    "half a unit": ({**HALF, "allocation": {"min_keep": 1.5}}, "allocation.min_keep: 1.5"),
    "a share above": ({**HALF, "allocation": {"max_ratio": 2}}, "allocation.max_ratio: 2"),
    "no multiple": ({**HALF, "allocation": {"round_to": 0}}, "allocation.round_to: 0"),
    "a schedule": ({**HALF, "schedule": "apg"}, 'unknown schedule "apg"; did you mean "agp"?'),
    "a number for a target": ({**HALF, "target": 3}, "target: 3: a name or a table is needed"),
    "a number for a metric": ({**HALF, "metric": 3}, "metric: 3: a name or a table is needed"),
    "a kind": ({**HALF, "target": "chanel"}, 'unknown kind "chanel"; did you mean "channel"?'),
    "one of the kinds": ({**HALF, "target": ["hidden", "hed"]}, 'did you mean "head"?'),
    "a metric": ({**HALF, "metric": "fpmg"}, 'metric: unknown metric "fpmg"; did you mean "fpgm"?'),
    "an option": (
        {**HALF, "metric": {"name": "random", "sed": 1}},
        'metric: unknown option of random "sed"; did you mean "seed"?',
    ),
    "an option of none": ({**HALF, "metric": {"name": "random", "p": 1}}, "known: seed"),
    "an option's value": (
        {**HALF, "metric": {"name": "random", "seed": "1"}},
        "metric.seed: '1': input should be a valid integer",
    ),
    "an option's choice": (
        {**HALF, "metric": {"name": "l1", "reduction": "men"}},
        'metric.reduction: unknown value "men"; did you mean "mean"?',
    ),
    "an allocation": ({**HALF, "allocation": "globl"}, 'did you mean "global"?'),
    "a kind it has not": (
        {**HALF, "target": "channel"},
        "no target of kind channel; the model",
    ),
    "an include": ({**HALF, "target": {"include": "frst"}}, 'target.include: .*mean "first"'),
    "an exclude": ({**HALF, "target": {"exclude": "lost"}}, "target.exclude: unknown module"),
    "everything out": ({**HALF, "target": {"exclude": "*"}}, "leave no target"),
    "no selection": ({**HALF, "target": []}, "target: []: at least one selection is needed"),
    "a selection": ({**HALF, "target": [{"kind": "all"}, 3]}, "target.1: 3: a name or a table"),
    "a key of a selection": (
        {**HALF, "target": [{"kind": "all"}, {"kinds": "x"}]},
        'target.1: unknown key "kinds"; did you mean "kind"?',
    ),
    "a kind of a selection": (
        {**HALF, "target": [{"kind": "all"}, {"kind": "hed"}]},
        'target.1.kind: unknown kind "hed"; did you mean "head"?',
    ),
    "a number as a kind": ({**HALF, "target": {"kind": 3}}, "target.kind: 3: a text or a list"),
    "a number as a pattern": (
        {**HALF, "target": {"include": ["a", 3]}},
        "target.include.1: 3: a text is needed",
    ),
    "a type it has not": (
        {**HALF, "target": {"type": "Linea"}},
        'target.type: unknown module type "Linea"; did you mean "Linear"?',
    ),
    "a number as a type": ({**HALF, "target": {"type": 3}}, "target.type: 3: a text or a list"),
    "one unit": ({**HALF, "target": {"min_units": 1}}, "target.min_units: 1: input should be"),
    "half a size": (
        {**HALF, "target": {"max_units": 2.5}},
        "target.max_units: 2.5: a whole number is needed",
    ),
    "a size that none has": ({**HALF, "target": {"min_units": 99}}, "leave no target"),
    "no truth": ({**HALF, "target": {"exact": "yes"}}, "target.exact: 'yes': true or false"),
    "a metric of its own": (
        {**HALF, "target": {"metric": "l7"}},
        'target.metric: unknown metric "l7"; known: ',
    ),
    "an option of that": (
        {**HALF, "target": [{"metric": {"name": "l1", "reduction": "men"}}]},
        'target.metric.reduction: unknown value "men"; did you mean "mean"?',
    ),
    "bounds crossed": (
        {**HALF, "target": {"min_ratio": 0.9, "max_ratio": 0.1}},
        "target: min_ratio=0.9 is above max_ratio=0.1",
    ),
    "bounds of all crossed": (
        {**HALF, "allocation": {"min_ratio": 0.9, "max_ratio": 0.1}},
        "allocation: min_ratio=0.9 is above max_ratio=0.1",
    ),
    "no normalisation": (
        {**HALF, "metric": {"name": "l1", "normalize": "meen"}},
        'metric.normalize: unknown value "meen"; did you mean "mean"? known: none, mean',
    ),
    "no number of steps": (
        {**HALF, "schedule": {"name": "agp", "step": 3}},
        'schedule: unknown option of agp "step"; did you mean "steps"?',
    ),
    "half a step": (
        {**HALF, "schedule": {"name": "agp", "steps": 2.5}},
        "schedule.steps: 2.5: input should be a valid integer",
    ),
    "no step": ({**HALF, "schedule": {"name": "agp", "steps": 0}}, "schedule: steps=0: 1 or more"),
    "a start above": (
        {**HALF, "schedule": {"name": "agp", "initial": 2.0}},
        "schedule: initial=2: 0 or more, and below 1, is needed",
    ),
    "less than no training": (
        {**HALF, "schedule": {"warmup": -1}},
        "schedule: warmup=-1: 0 or more is needed",
    ),
    "a number for training": ({**HALF, "fine_tune": 3}, "fine_tune: 3: a table is needed"),
    "no rate": ({**HALF, "fine_tune": {"lr": 0}}, "fine_tune.lr: 0: input should be greater than"),
    "an option of training": (
        {**HALF, "fine_tune": {"epoch": 1}},
        'fine_tune: unknown option "epoch"; did you mean "epochs"?',
    ),
    "a longer warm-up": (
        {**HALF, "fine_tune": {"epochs": 1, "warmup": 2.0}},
        "fine_tune: warmup=2: is longer than epochs=1",
    ),
    "nothing but cooling": (
        {**HALF, "schedule": {"name": "movement", "steps": 2, "cooldown": 2}},
        "schedule: cooldown=2: 0 to 1 is needed",
    ),
    "an option of the objective": (
        {"objective": {"macs": 0.5, "device": "cpu"}},
        'objective: unknown option of macs "device"; known: none',
    ),
    "a preset": ({"preset": "apg"}, 'preset: unknown preset "apg"; did you mean "agp"?'),
    "a preset by name": ("apg", 'unknown preset "apg"; did you mean "agp"?'),
    "a file's name without its end": ("spec.tom", "A file's name ends in .toml, .yaml or .json"),
    "no name of a preset": ({"preset": 3}, "preset: 3: the name of a preset is needed"),
    "an option of a preset": (
        {"preset": "agp", "schedule": {"stps": 3}},
        'schedule: unknown option of agp "stps"; did you mean "steps"?',
    ),
    "an axis of a preset": ({"preset": "agp", "metric": "l7"}, 'metric: unknown metric "l7"'),
    "an evaluator": ({**HALF, "allocation": "simulated-annealing"}, "evaluate is missing"),
}
