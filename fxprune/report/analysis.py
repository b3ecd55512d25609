"""The analysis of a model: what could be removed of it, and what is pinned and why."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from fxprune.cost import Cost
from fxprune.files.tables import as_html, as_notes, as_text
from fxprune.program import Program
from fxprune.report.explanation import Explainer, Explanation
from fxprune.report.model_tree import HEADINGS, NUMBERS, Part, rows_of, tree_of
from fxprune.targets import Discovery, Pinned, Target


@dataclass(frozen=True)
class Analysis:
    """Hold what could be pruned of a model: nothing has been.

    `coverage` is the share of parameters that lie in at least one unit of a target; `macs` are
    multiply-accumulates for one example.
    """

    targets: tuple[Target, ...]
    pinned: tuple[Pinned, ...]
    coverage: float
    parameters: int
    macs: int
    bytes: int
    notes: tuple[str, ...]
    axes: tuple[str, ...]  # which axes of the inputs are free, and why others are fixed
    discovery: Discovery = field(repr=False, compare=False)
    tree: Part = field(repr=False, compare=False)

    @classmethod
    def of(cls, program: Program) -> Analysis:
        """Read the analysis off a program that has been coupled."""
        discovery = program[Discovery]
        cost = Cost(program.module, discovery.coupling, program.signature.batch)
        return cls(
            discovery.targets,
            discovery.pinned,
            discovery.coverage,
            cost.every_param(),
            cost.macs(cost.whole()),
            cost.every_byte(),
            program.notes,
            tuple(program.signature.lines()),
            discovery,
            tree_of(discovery, cost),
        )

    def __str__(self) -> str:
        table = as_text(HEADINGS, rows_of(self.tree), NUMBERS, spare="type")
        return "\n".join([table, "", *self._lines()])

    def _repr_html_(self) -> str:
        notes = as_notes(self._lines())
        return as_html(HEADINGS, rows_of(self.tree), NUMBERS) + notes

    def _lines(self) -> list[str]:
        """Return what is said under the tree."""
        loose = [target.name for target in self.targets if not target.exact]
        lines = [
            f"{self.parameters:,} parameters, {self.macs:,} MACs, {len(self.targets)} targets; "
            f"{self.coverage:.2%} of the parameters lie in at least one prunable unit"
        ]
        if loose:
            lines.append("~ approximate: removing differs from zeroing, since a statistic changes")
        lines += [f"input: {line}" for line in self.axes]
        lines += [f"note: {note}" for note in self.notes]
        return lines

    def graph(self) -> Any:
        """Return what is tied to what, as a `networkx.MultiDiGraph`."""
        from fxprune.report.coupling_graph import coupling_graph

        return coupling_graph(self.discovery)

    def explain(self, what: str | None = None) -> Explanation:
        """Explain what leaves together with a module, parameter or target, and what cannot leave.

        Without a name, all that cannot leave is explained, each cause once. Raises InputError for a
        name that is none of these.
        """
        return Explainer(self.discovery).of(what)

    def explain_pair(self, first: str, second: str) -> Explanation:
        """Explain whether two of these lose units together, and through which operators."""
        return Explainer(self.discovery).pair(first, second)

    def to_json(self) -> str:
        """Return the analysis as JSON."""
        data = {
            "parameters": self.parameters,
            "macs": self.macs,
            "bytes": self.bytes,
            "coverage": self.coverage,
            "targets": [
                {"name": t.name, "kind": t.kind, "units": len(t), "exact": t.exact, "why": t.why}
                for t in self.targets
            ],
            "pinned": [vars(pinned) for pinned in self.pinned],
            "notes": list(self.notes),
            "axes": list(self.axes),
        }
        return json.dumps(data, indent=1)
