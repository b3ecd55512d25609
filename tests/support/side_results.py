"""Networks whose results have parts that do not count: caches, hidden states, several heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Cache:
    """Keep the keys and values of a layer, as those of decoders do: torch cannot take it apart."""

    def __init__(self) -> None:
        self.keys = self.values = torch.tensor([])

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys = torch.cat([self.keys, keys], dim=-2)
        self.values = torch.cat([self.values, values], dim=-2)
        return self.keys, self.values


@dataclass
class Said:
    logits: Tensor
    hidden: Tensor | None = None
    cache: Cache | None = None


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


class Cached(nn.Module):
    """Attend over what a cache holds, and return the cache, in a form of the caller's choice."""

    def __init__(self, form: str = "dict", use_cache: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.use_cache, self.heads = form, use_cache, 4
        self.embed = nn.Embedding(16, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 16)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Any:
        hidden = self.embed(ids)
        form = (*ids.shape, self.heads, -1)
        q, k, v = (
            one(hidden).view(form).transpose(1, 2) for one in (self.query, self.key, self.value)
        )
        if self.use_cache:
            cache = cache if cache is not None else Cache()
            k, v = cache.update(k, v)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25)
        mixed = self.out(attended.transpose(1, 2).flatten(2))
        logits = self.head(mixed.relu())
        parts = {"logits": logits, "hidden": mixed, "cache": cache}
        if self.form == "dataclass":
            return Said(**parts)
        if self.form == "namedtuple":
            return Pair(logits, mixed)
        if self.form == "nested":
            return {"logits": logits, "past": (cache, [cache])}
        return tuple(parts.values()) if self.form == "tuple" else parts
