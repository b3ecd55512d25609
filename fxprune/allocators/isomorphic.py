"""Isomorphic allocation: one ranking within each group of structurally equal targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fxprune.allocators.registry import Choice, Moves, Needs, Problem, Values, allocator


@allocator("isomorphic")
@dataclass(frozen=True)
class Isomorphic:
    """Rank units together where their targets are structurally equal (Fang et al. 2024).

    arXiv:2407.04616: scores of a convolution and of an attention head follow different
    distributions, and are not compared. Two targets are of one group G where their units are of one
    kind and take part in the same operators at the same axes of the same arguments, whatever their
    names and sizes. Units u are removed in the order of the share of their group removed with u,

        |{v ∈ G : s(v) / mean s(target of v) ≤ s(u) / mean s(target of u)}| / |G|,

    so that every group loses the same share, and in a group its least important units.
    `normalize` says whether scores are divided by the mean of their target.
    """

    normalize: Literal["mean", "none"] = "mean"
    needs: ClassVar[Needs] = "nothing"

    def choose(self, problem: Problem) -> Choice:
        """Make moves in the order of the share of their group removed after each."""
        names = [target.structure or (target.kind,) for target in problem.targets]
        mean = self.normalize == "mean"
        scale = [float(s.mean()) or 1.0 if mean else 1.0 for s in problem.scores]
        scores: dict[tuple[str, ...], list[Values]] = {name: [] for name in names}
        whole = dict.fromkeys(names, 0)
        for k, name in enumerate(names):
            scores[name].append(problem.scores[k] / scale[k])
            whole[name] += problem.sizes[k]
        ranked = {name: np.sort(np.concatenate(listed)) for name, listed in scores.items()}

        def share(moves: Moves) -> Values:
            name = names[moves.target]
            return _gone(ranked[name], moves.score / scale[moves.target], whole[name])

        return problem.meet(share)


def _gone(ranked: Values, scores: Values, whole: int) -> Values:
    """Return the share of a group removed with all units up to scores, and those before."""
    before = whole - len(ranked)
    gone: Values = (before + np.searchsorted(ranked, scores, side="right")) / whole
    return gone
