"""The algebra of guards: whatever is stated holds under every choice, and pins say why."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fxprune.guards import Guards, Ids, Reason, concat, outer, true
from tests.guards.guard_choices import equal, within

WHY = Reason("view_3", "an axis splits across an earlier split")


def split(guards: Guards, g: Ids, *sizes: int) -> list[Ids]:
    return guards.split(g, sizes, [False] * len(sizes), WHY)


def variables(guards: Guards, g: Ids) -> int:
    """Return how many free variables a guard depends on."""
    return len(np.unique(found[found > 0])) if (found := guards.normal(g)).size else 0


# ---- outer products and concatenation ------------------------------------------------------------


def test_outer_is_row_major_and_skips_what_never_changes() -> None:
    a, b = np.array([[1], [2]]), np.array([[3], [4], [5]])
    pairs = [[i, j] for i in (1, 2) for j in (3, 4, 5)]
    assert outer([a, b]).tolist() == pairs
    assert outer([a, true(2), b]).tolist() == [
        row for i in (1, 2) for _ in range(2) for row in ([i, 3], [i, 4], [i, 5])
    ]
    assert outer([true(2), true(3)]).shape == (6, 0)
    assert outer([true(0), a]).shape[0] == 0


def test_concat_pads_with_true() -> None:
    rows = concat([np.array([[1, 2]]), np.array([[3]]), true(2)])
    assert rows.tolist() == [[1, 2], [3, 0], [0, 0], [0, 0]]
    assert concat([]).shape == (0, 0)


# ---- splits --------------------------------------------------------------------------------------

SPLITS = {
    "heads": ((12, 64), 12 + 64),
    "three factors, as in grouped-query attention": ((4, 3, 8), 4 + 3 + 8),
    "four factors": ((2, 3, 4, 5), 2 + 3 + 4 + 5),
    "a size of one": ((1, 96), 96),
    "sizes of one around two factors": ((8, 1, 12, 1), 8 + 12),
}


@pytest.mark.parametrize("name", SPLITS)
def test_split_defines_by_factors(name: str) -> None:
    sizes, count = SPLITS[name]
    guards = Guards()
    g = guards.fresh(int(np.prod(sizes)))
    parts = split(guards, g, *sizes)
    assert [len(part) for part in parts] == list(sizes)
    assert variables(guards, g) == count
    assert equal(guards, g, outer(parts))
    assert not guards.pinned(g).any()


REFINED = {
    "12x64 against 24x32": ((12, 64), (24, 32), 12 + 2 + 32),
    "24x32 against 12x64": ((24, 32), (12, 64), 12 + 2 + 32),
    "2x3x4 against 6x4": ((2, 3, 4), (6, 4), 2 + 3 + 4),
    "6x4 against 2x3x4": ((6, 4), (2, 3, 4), 2 + 3 + 4),
    "2x12 against 2x3x4": ((2, 12), (2, 3, 4), 2 + 3 + 4),
    "the same twice": ((6, 4), (6, 4), 6 + 4),
}


@pytest.mark.parametrize("name", REFINED)
def test_two_splits_take_the_common_refinement(name: str) -> None:
    first, second, count = REFINED[name]
    guards = Guards()
    g = guards.fresh(int(np.prod(first)))
    a, b = split(guards, g, *first), split(guards, g, *second)
    assert not any(guards.pinned(part).any() for part in (*a, *b))
    assert variables(guards, g) == count
    assert equal(guards, g, outer(a))
    assert equal(guards, g, outer(b))


def test_splits_without_a_common_refinement_pin_and_name_the_node() -> None:
    guards = Guards()
    g = guards.fresh(12)
    parts = split(guards, g, 3, 4)
    later = Reason("view_9", "another split")
    guards.split(g, (4, 3), (False, False), later)
    assert guards.normal(g).shape == (12, 0)
    assert {str(reason) for reason in guards.why(g)} == {"view_9: another split"}
    assert guards.pinned(guards.find(parts[0])).all()


def test_a_symbolic_size_never_varies() -> None:
    guards = Guards()
    g = guards.fresh(12)
    batch, rest = guards.split(g, (3, 4), (True, False), WHY)
    assert batch.shape == (3, 0)
    assert variables(guards, g) == variables(guards, rest) == 4  # i, i+4 and i+8 leave together


def test_heads_meet_grouped_heads() -> None:
    """Sixteen query heads meet four key heads: query = key head and repeat, and both the dim."""
    guards = Guards()
    query, key = guards.fresh(16 * 8), guards.fresh(4 * 8)
    q_head, q_dim = split(guards, query, 16, 8)
    k_head, k_dim = split(guards, key, 4, 8)
    repeat = guards.fresh(4)
    guards.unify(q_head, outer([k_head, repeat]), WHY)
    guards.unify(q_dim, k_dim, WHY)
    assert guards.normal(query).shape == (128, 3)
    assert variables(guards, query) == 4 + 4 + 8
    assert equal(guards, query, outer([k_head, repeat, k_dim]))


# ---- movement of structured rows -----------------------------------------------------------------


def fused(guards: Guards) -> tuple[Ids, Ids]:
    """A fused QKV: an axis of 3 x 4 x 8, its three parts of one attention."""
    g = guards.fresh(96)
    part, head, dim = split(guards, g, 3, 4, 8)
    guards.pin(part, Reason("unbind", "an axis of unbound parts keeps its size"))
    return g, outer([head, dim])


def halves(guards: Guards) -> tuple[Ids, Ids]:
    """GLU: the two halves of an axis are one."""
    g = guards.fresh(16)
    guards.unify(g[:8], g[8:], WHY)
    return g[:8], g[8:]


def joined(guards: Guards) -> tuple[Ids, Ids]:
    """cat([x, x]) meets an axis of its own: i and i + n are one."""
    x, y = guards.fresh(6), guards.fresh(12)
    guards.unify(concat([x, x]), y, WHY)
    return y[:6], y[6:]


def sliced(guards: Guards) -> tuple[Ids, Ids]:
    """The first 2 of 4 heads meet a plain axis."""
    g, plain = guards.fresh(32), guards.fresh(16)
    split(guards, g, 4, 8)
    guards.unify(g[:16], plain, WHY)
    return g[:16], plain


def shuffled(guards: Guards) -> tuple[Ids, Ids]:
    """A chain of three channel shuffles by two groups, then the residual of the start."""
    g = guards.fresh(24)
    at = g
    for _ in range(3):
        first, second = split(guards, at, 2, 12)
        at = outer([second, first])
    guards.unify(at, g, WHY)
    return at, g


MOVED = {"fused": fused, "halves": halves, "joined": joined, "sliced": sliced, "shuffled": shuffled}
FREE = {"fused": 12, "halves": 8, "joined": 6, "sliced": 2 + 8, "shuffled": None}


@pytest.mark.parametrize("name", MOVED)
def test_movement_keeps_structure(name: str) -> None:
    guards = Guards()
    with within(5):
        a, b = MOVED[name](guards)
    if len(a) == len(b):
        assert equal(guards, a, b)
    count = variables(guards, a)
    assert count == FREE[name] if FREE[name] else count > 0


# ---- pins and reasons ----------------------------------------------------------------------------


def test_pins_reach_through_definitions() -> None:
    guards = Guards()
    g = guards.fresh(6)
    head, dim = split(guards, g, 2, 3)
    assert guards.pin(g[:1], Reason("output", "the caller sees this axis"))
    assert not guards.pin(g[:1], WHY)
    assert guards.pinned(head[:, 0]).tolist() == [True, False]
    assert guards.pinned(dim[:, 0]).tolist() == [True, False, False]
    assert str(guards.why(g[:1])[0]) == "output: the caller sees this axis"
    assert guards.why(dim[1:2]) == []
    assert guards.normal(g)[1:3, 0].tolist() == dim[1:, 0].tolist()


def test_true_has_a_reason_of_its_own() -> None:
    guards = Guards()
    guards.pin(guards.fresh(1), WHY)
    assert guards.why(np.array([[0]])) != [WHY]


def test_unequal_lengths_are_an_error_that_says_both() -> None:
    guards = Guards()
    with pytest.raises(ValueError, match=r"view_3.*3 indices meet 4"):
        guards.unify(guards.fresh(3), guards.fresh(4), WHY)


def test_a_product_of_one_column_with_itself_is_symmetric() -> None:
    """A gram matrix flattened: x_i and x_j, met transposed."""
    guards = Guards()
    x = guards.fresh(4)
    y = guards.fresh(16)
    guards.unify(outer([x, x]), y, WHY)
    assert variables(guards, y) == 4
    assert equal(guards, y, y.reshape(4, 4, 1).transpose(1, 0, 2).reshape(16, 1))


def test_ten_thousand_unions_take_no_time() -> None:
    guards = Guards()
    parts = [guards.fresh(1024) for _ in range(200)]
    with within(5):
        for a, b in pairwise(parts):
            guards.unify(a, b, WHY)
    assert len(np.unique(guards.normal(concat(parts)))) == 1024
