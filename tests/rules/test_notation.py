"""Patterns: what is no pattern, or none of the operator, is said where the rule is registered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fxprune.errors import PluginError, VerifyError
from fxprune.extend import check_rule, rule
from fxprune.rules.registry import RULES


@torch.library.custom_op("fxprune_tests::turned", mutates_args=())
def turned(x: torch.Tensor, angle: torch.Tensor, half: int) -> torch.Tensor:
    """Turn channels i and half + i of x, [b, 2·half, h], by angle, [half]."""
    first, second = x[:, :half], x[:, half:]
    sine, cosine = angle.sin()[None, :, None], angle.cos()[None, :, None]
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], 1)


@turned.register_fake
def _(x: torch.Tensor, angle: torch.Tensor, half: int) -> torch.Tensor:
    return torch.empty_like(x)


TURNED = torch.ops.fxprune_tests.turned.default
WRONG = {
    "n c h": "is no pattern: operands -> result",
    "n c, -> n -> c": "is no pattern: operands -> result",
    "n (k c h, c -> n k c h": '"(" is not understood: axes are letters',
    "n [c], c -> n c": '"[]" is not understood',
    "n c h, c, _ -> n c h": "has 3 operands, and the operator takes 2 tensors: x, angle",
    "n c h, c -> n c w": "the result has w, and no operand does",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_pattern_is_said(text: str) -> None:
    with pytest.raises(PluginError) as raised:
        rule(TURNED, text)
    assert WRONG[text] in str(raised.value)
    assert "fxprune_tests.turned" in str(raised.value)


def test_a_count_of_no_letter_is_said() -> None:
    with pytest.raises(PluginError, match="g=… counts a letter that no operand has"):
        rule(TURNED, "n c h, c -> n c h", g="half")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv1d(3, 32, 3), torch.nn.Conv1d(32, 8, 3)
        self.angle = torch.nn.Parameter(torch.randn(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(TURNED(self.first(x).relu(), self.angle, 16))
        return found


@pytest.fixture
def unregistered() -> Iterator[None]:
    yield
    RULES.pop(TURNED, None)


@pytest.mark.usefixtures("unregistered")
def test_the_size_of_a_letter_is_read_off_a_later_operand() -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 12)
    rule(TURNED, "n (_ c) h, c -> n (_ c) h")
    with pytest.raises(VerifyError, match="a number of the node is not rewritten"):
        check_rule(net, x)
    rule(TURNED, "n (k c) h, c -> n (k c) h", c="half", replace=True)
    with pytest.raises(VerifyError):  # both halves are needed, always
        check_rule(net, x)
    rule(TURNED, "n (_ c) h, c -> n (_ c) h", c="half", replace=True)
    assert "16" in str(check_rule(net, x))
    rule(TURNED, "n (k c) h, _ -> n (k c) h", replace=True)
    with pytest.raises(VerifyError, match=r"the sizes of k and c in \(k c\) are unknown"):
        check_rule(net, x)
