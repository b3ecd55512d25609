"""Half precision where there is a GPU: which type, and how small gradients are kept from zero."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Precision:
    """Hold the device and the type that operators compute in; without a type, in their own."""

    device: str = "cpu"
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, module: nn.Module, amp: bool) -> Precision:
        """Return half precision for a module of single precision on a GPU, if `amp` asks for it.

        It is bfloat16 where the GPU computes with it, else float16.
        """
        first = next((one for one in module.parameters() if one.is_floating_point()), None)
        if first is None or not amp or first.dtype != torch.float32:
            return cls()
        kind = first.device.type
        if kind == "cpu" or not torch.amp.is_autocast_available(kind):
            return cls()
        wide = kind != "cuda" or torch.cuda.is_bf16_supported()
        return cls(kind, torch.bfloat16 if wide else torch.float16)

    def held(self) -> AbstractContextManager[Any]:
        """Hold the precision while a loss is computed."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return what scales the loss: only float16 loses small gradients."""
        return torch.amp.GradScaler(self.device, enabled=self.dtype == torch.float16)
