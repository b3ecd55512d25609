"""The law of a rule, as `fxprune.extend` offers it to everybody."""

from fxprune.extend.law import Case, Held, Input, Sample, build

__all__ = ["Case", "Held", "Input", "Sample", "build"]
