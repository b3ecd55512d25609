"""A device to measure latency on: whatever can be called, and returns when the work is done."""

import torch

from fxprune.extend import Run, Signature


def no_threads(module: torch.nn.Module, signature: Signature, threads: int, batch: int) -> Run:
    """Return what runs `module` once, on the example inputs and in this thread alone."""

    def run() -> object:
        with torch.inference_mode():
            return module(*signature.args, **signature.kwargs)

    return run
