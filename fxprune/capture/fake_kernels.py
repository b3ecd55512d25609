"""Say the shapes of operators for which torch itself has no kernel on tensors without data."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch


def _alike(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.empty_like(x)


def _with_mask(x: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


LACKING = {
    "fake_quantize_per_tensor_affine_cachemask": _with_mask,
    "fake_quantize_per_channel_affine_cachemask": _with_mask,
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams": _with_mask,
    "_fake_quantize_learnable_per_tensor_affine": _alike,
    "_fake_quantize_learnable_per_channel_affine": _alike,
}


def register() -> None:
    """Give torch the kernels that it lacks, for the whole process."""
    for name, kernel in LACKING.items():
        with suppress(RuntimeError):  # this torch has one, or another library has brought it
            torch.library.register_fake(f"aten::{name}", kernel)
