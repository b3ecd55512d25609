"""Tell whether tensors are still those that were written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def digest(tensors: Mapping[str, torch.Tensor], *texts: str) -> str:
    """Return a hash of the names, shapes, types and numbers of tensors, and of some texts."""
    made = hashlib.blake2b(digest_size=16)
    for text in texts:
        made.update(f"{len(text)} {text}".encode())
    for name, tensor in sorted(tensors.items()):
        made.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        made.update(data.numpy().tobytes())
    return made.hexdigest()
