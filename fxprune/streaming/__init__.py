"""Streaming: a checkpoint in shards of safetensors is pruned, one tensor in memory at a time.

The model is built and analyzed on the meta device; its weights are scored, cut and written as they
are read. A run that was killed goes on where it was.
"""

from fxprune.streaming.building import Build
from fxprune.streaming.pruning import prune_checkpoint

__all__ = ["Build", "prune_checkpoint"]
