"""Queries and keys that lose head dims keep their logits, as far as their rank allows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.surgery.repair.logits import truncated
from tests.support.noise import noise
from tests.support.repairs import apart, cut

TOKENS = [noise(16, 5, 12, seed=n) for n in range(6)]
HEADS, DIM, RANK = 2, 6, 3


class Attention(nn.Module):
    """Attention whose queries and keys have six dims, but logits of rank three only."""

    def __init__(self, form: str = "apart", kv: int = HEADS) -> None:
        super().__init__()
        self.form, self.kv = form, kv
        self.q, self.k = nn.Linear(12, HEADS * DIM), nn.Linear(12, kv * DIM)
        self.v, self.out = nn.Linear(12, HEADS * 4), nn.Linear(HEADS * 4, 12)
        with torch.no_grad():  # each head's queries: full rank; keys: in a subspace of rank three
            for head in range(kv):
                rows = slice(head * DIM, (head + 1) * DIM)
                basis = noise(DIM, RANK, seed=10 + head)
                self.k.weight[rows] = basis @ noise(RANK, 12, seed=20 + head)
        if form == "fused":
            self.qk = nn.Linear(12, 2 * HEADS * DIM)
            with torch.no_grad():
                self.qk.weight.copy_(torch.cat([self.q.weight, self.k.weight]))
                self.qk.bias.copy_(torch.cat([self.q.bias, self.k.bias]))
            del self.q, self.k

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "fused":
            q, k = self.qk(x).unflatten(-1, (2, HEADS, DIM)).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q = self.q(x).unflatten(-1, (HEADS, DIM)).transpose(1, 2)
            k = self.k(x).unflatten(-1, (self.kv, DIM)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (HEADS, 4)).transpose(1, 2)
        if self.form == "products":
            seen = ((q / 2.0) @ k.transpose(-1, -2) * 0.5).softmax(-1) @ v
        elif self.form == "turned":
            seen = F.scaled_dot_product_attention(q * x.mean(), k, v)
        else:
            seen = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.kv != HEADS)
        return self.out(seen.transpose(1, 2).flatten(2))


def dims_of(model: nn.Module) -> str:
    """Return the name of the target of queries' and keys' dims."""
    from fxprune.capture import capture
    from fxprune.targets import Discovery, couple

    module = capture(model.eval(), (TOKENS[0],)).module
    targets = Discovery(module, couple(module)).targets
    return next(t.name for t in targets if t.kind == "head_dim" and len(t) == DIM)


FORMS = {"apart": ("apart", 2), "fused": ("fused", 2), "products": ("products", 2),
         "shared": ("apart", 1)}  # fmt: skip


@pytest.mark.parametrize(("form", "kv"), FORMS.values(), ids=FORMS)
def test_logits_of_a_low_rank_are_kept(form: str, kv: int) -> None:
    torch.manual_seed(0)
    model = Attention(form, kv)
    if form == "products":  # which does not tell that keys may be shifted
        nn.init.zeros_(model.k.bias)  # type: ignore[union-attr]
    found = cut(model, (TOKENS[0],), drop={dims_of(model): [0, 2, 5]})
    wanted = model(TOKENS[0])
    assert apart(wanted, found.smaller(TOKENS[0])) > 1e-2
    repaired = found.repaired(TOKENS)
    mine = next(one for one in repaired.report.operators if not one.tensor)
    assert (mine.before > 1e-2, mine.after < 1e-6, mine.damping) == (True, True, 0.0), mine
    assert apart(wanted, found.write(repaired)(TOKENS[0])) < 1e-4


def test_what_is_more_than_movement_is_left_and_said_to_be() -> None:
    torch.manual_seed(0)
    model = Attention("turned")
    found = cut(model, (TOKENS[0],), drop={dims_of(model): [0, 2, 5]})
    mine = [one for one in found.repaired(TOKENS).report.operators if not one.tensor]
    assert [one.why for one in mine if "mere movement" in one.why]


def test_the_truncation_is_that_of_the_logits() -> None:
    q, k = noise(40, 6), noise(50, 6, seed=1)
    q, k = (one.double() @ torch.diag(torch.arange(1.0, 7.0).double()) for one in (q, k))
    m, n = truncated(q.T @ q, k.T @ k, 2)
    s = torch.linalg.svdvals(q @ k.T)
    error = (q @ k.T - q @ m @ n.T @ k.T).square().sum()
    torch.testing.assert_close(error, s[2:].square().sum())


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_logits_never_come_out_worse(ratio: float) -> None:
    for seed in range(6):
        torch.manual_seed(seed)
        repaired = cut(Attention(), (TOKENS[0],), ratio, seed=seed).repaired(TOKENS)
        for one in repaired.report.operators:
            assert not one.after > one.before


def test_a_head_that_is_gone_is_made_up_for_by_those_that_stay() -> None:
    torch.manual_seed(0)
    model = Attention()
    with torch.no_grad():  # both heads look at the same, and see something else
        for part in (model.q, model.k):
            part.weight[DIM:], part.bias[DIM:] = part.weight[:DIM], part.bias[:DIM]
        model.v.weight[4:] = noise(4, 4, seed=3) @ model.v.weight[:4]
        model.v.bias[4:] = 0.5
    found = cut(model, (TOKENS[0],), drop={name: [1] for name in ("q:head", "k:head", "v:head")})
    wanted = model(TOKENS[0])
    assert apart(wanted, found.smaller(TOKENS[0])) > 1e-2
    assert apart(wanted, found.write(found.repaired(TOKENS))(TOKENS[0])) < 1e-4
