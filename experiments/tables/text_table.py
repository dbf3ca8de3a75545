"""A table of text as Markdown, LaTeX and on the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


@dataclass(frozen=True)
class TextTable:
    """Cells of text.

    Args:
        title: a line above; none if empty.
        cells: columns are pairs of a heading and a subheading; both axes are shown.
        notes: lines below.
        rule: number of the row with a rule below it; None for none.
    """

    title: str
    cells: pd.DataFrame
    notes: Sequence[str] = ()
    rule: int | None = None

    def markdown(self) -> str:
        """GitHub's Markdown; of a column's two headings the subheading, if there is one."""
        plain = self.cells.set_axis([sub or top for top, sub in self._headings()], axis=1)
        plain = plain.rename_axis([name or "" for name in plain.index.names]).reset_index()
        sides = ["left"] * self.cells.index.nlevels + ["right"] * self.cells.shape[1]
        body = plain.to_markdown(index=False, disable_numparse=True, colalign=sides)
        head = [f"**{self.title}**"] if self.title else []
        return "\n\n".join([*head, body, *self.notes]) + "\n"

    def latex(self) -> str:
        """For the package booktabs."""
        cells = self.cells
        if not any(sub for _, sub in self._headings()):
            cells = cells.droplevel(1, axis=1)
        style = cells.style.format(escape="latex")
        for axis in (0, 1):
            style = style.format_index(escape="latex", axis=axis)
        columns = "l" * cells.index.nlevels + "r" * cells.shape[1]
        latex = style.to_latex(
            column_format=columns, hrules=True, multicol_align="c", caption=self.title or None
        )
        return latex.replace("±", r"$\pm$")

    def write(self, stem: Path) -> None:
        """Write <stem>.md and <stem>.tex."""
        stem.with_suffix(".md").write_text(self.markdown(), encoding="utf-8")
        stem.with_suffix(".tex").write_text(self.latex(), encoding="utf-8")

    def print(self) -> None:
        """Print to the terminal, subheadings as in Markdown."""
        console, table = Console(), Table()
        for name in self.cells.index.names:
            table.add_column(str(name or ""), no_wrap=True)
        for top, sub in self._headings():
            table.add_column(sub or top, justify="right", style="dim" if sub else None)
        for i, (labels, row) in enumerate(
            zip(self.cells.index, self.cells.to_numpy().tolist(), strict=True)
        ):
            labels = labels if isinstance(labels, tuple) else (labels,)
            table.add_row(*map(str, labels), *row, end_section=i == self.rule)
        if self.title:
            console.print(self.title, style="bold", highlight=False)
        wide = console.options.update(max_width=1000)
        needed = Measurement.get(console, wide, table).maximum
        console.width = max(console.width, needed)  # a terminal that is too narrow breaks lines
        console.print(table)
        for note in self.notes:
            console.print(note, style="dim", highlight=False)

    def _headings(self) -> list[tuple[str, str]]:
        return [(str(pair[0]), str(pair[1])) for pair in self.cells.columns]
