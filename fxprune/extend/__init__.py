"""What a plug-in imports: rules, metrics, allocators, schedules, objectives, passes, devices.

Each decorator registers under a name, which a specification, a list of passes or a graph then uses.
Other distributions use it, through entry points, and so do files that the user names; see
`docs/plugins.md`. `check_rule` holds a rule to the law that those of fxprune obey.
"""

from fxprune.allocators import Choice, Problem, allocator
from fxprune.cost import Cost
from fxprune.extend.checking import RuleCheck, check_rule
from fxprune.extend.law import Held, Input
from fxprune.extend.weights import weight_scores
from fxprune.guards import Mask
from fxprune.latency.devices import DEVICES, Run
from fxprune.metrics import Evidence, Scores, metric
from fxprune.objectives import Objective, objective
from fxprune.onnx.translations import translates
from fxprune.pipeline import register as pass_
from fxprune.program import Program
from fxprune.rules import Site, TensorGuard
from fxprune.rules.edit import Edit
from fxprune.rules.pattern import rule
from fxprune.rules.registry import couples, rewrites
from fxprune.schedules import Schedule, schedule
from fxprune.signature import Signature

device = DEVICES.register

__all__ = [
    "Choice",
    "Cost",
    "Edit",
    "Evidence",
    "Held",
    "Input",
    "Mask",
    "Objective",
    "Problem",
    "Program",
    "RuleCheck",
    "Run",
    "Schedule",
    "Scores",
    "Signature",
    "Site",
    "TensorGuard",
    "allocator",
    "check_rule",
    "couples",
    "device",
    "metric",
    "objective",
    "pass_",
    "rewrites",
    "rule",
    "schedule",
    "translates",
    "weight_scores",
]
