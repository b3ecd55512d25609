"""Expressions in a file that sympy would work on without end are refused before it sees them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.errors import UntrustedFileError
from fxprune.files import archive
from fxprune.files.arithmetic import refuse_expression, refuse_guard
from tests.files.sabotage import Records, edit, read, write


def sizes(text: str, count: int, start: int = 0) -> str:
    return ",".join(text.replace("#", str(k)) for k in range(start, start + count))


ENDLESS = {
    "a large exponent": "floor(1e999999999)",
    "a small exponent": "ceiling(1e-999999999)",
    "a number as a text": "floor(Float('1e99999', precision=53))",
    "many digits": f"floor(0.{'3' * 60})",
    "digits in groups": "1_000",
    "another base": "0x10",
    "a power of it": "Pow(floor(1e9999999),64)",
    "a maximum of many": f"Max({sizes('s#', 800)})",
    "maxima of maxima": "Max(s0," * 30 + "s1" + ")" * 30,
    "a product of sums": f"ModularIndexing(Mul({sizes('s#+1', 12)}),7,s0)",
    "a power of a sum": f"FloorDiv(Add({sizes('s#', 12)})**8,7)",
    "a power of a power": "FloorDiv(((s0+s1)**30)*((s2+s3)**30),7)",
    "a product of many operators": f"Mod({'*'.join(f'(s{k} + s{k + 1})' for k in range(16))},7)",
    "a division of sums": f"FloorDiv(Mul({sizes('s#+1', 8)}),Mul({sizes('s#+2', 8, 9)})+s1)",
    "a sum of a thousand": f"Add({sizes('s#', 1000)})",
}
HONEST = [
    f"Add({sizes('s#', 90)})",
    "Max(1, FloorDiv(s0, 2))",
    f"Min({sizes('s#', 12)})",
    "(s0 + 1)**2 * s1**3 - 4*s2",
    "Mod(Mul(Integer(-1), Symbol('s77', positive=True, integer=True)), 64)",
    "ModularIndexing((s0 + 3)*(s1 + 2)*(s2 + 1), 7, 49)",
    "FloorToInt(IntTrueDiv(s0, 2.5))",
    "(s0 + 1)**64",
]


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_work_is_refused(name: str) -> None:
    assert refuse_expression(ENDLESS[name]) is not None


@pytest.mark.parametrize("text", HONEST)
def test_honest_arithmetic_is_not(text: str) -> None:
    assert refuse_expression(text) is None


def test_guards_are_judged_alike() -> None:
    assert refuse_guard("L['x'].size()[0] <= 1e999999999") is not None
    assert refuse_guard("L['x'].size()[0] <= 1.5e3") is None


def size_of(records: Records, text: str) -> None:
    raw = records["models/model.json"].decode()
    records["models/model.json"] = re.sub(
        r"\"Symbol\('s\d+'[^\"]*\"", json.dumps(text), raw
    ).encode()


def counted_to(records: Records, name: str) -> None:
    def change(document: Any) -> None:
        document["range_constraints"] = {name: {"min_val": 0, "max_val": 5}}

    edit(records, change)


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        (size_of, ENDLESS["a large exponent"], "the number '1e999999999'"),
        (size_of, ENDLESS["a maximum of many"], "a maximum of 800 sizes"),
        (size_of, ENDLESS["a power of a sum"], "75582 products"),
        (counted_to, "u99999999999", "range_constraints 'u99999999999' is no name of a size"),
    ],
)
def test_a_file_says_what_is_wrong(change: Any, given: str, said: str, tmp_path: Path) -> None:
    batch = ({0: torch.export.Dim("b")},)
    program = torch.export.export(nn.Linear(6, 4), (torch.randn(3, 6),), dynamic_shapes=batch)
    archive.save_exported(program, tmp_path / "x.pt2", {})
    records = read(tmp_path / "x.pt2")
    change(records, given)
    with pytest.raises(UntrustedFileError, match=re.escape(said)):
        archive.load_exported(write(records, tmp_path / "y.pt2"))
