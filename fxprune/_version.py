"""The version of fxprune, said here alone."""

__version__ = "0.1.0"
