"""Fine-tuning: the pruned model is trained in place, and follows the original as a teacher.

Rate, gradients, averages of weights and statistics of norms have a file each, distances two.
The loop calls `FineTune` after each step, and so may anybody, with any module.
"""

from fxprune.loop.fine_tuning.fine_tune import FineTune
from fxprune.loop.fine_tuning.norms import recalibrate

__all__ = ["FineTune", "recalibrate"]
