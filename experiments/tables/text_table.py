"""A table of text as Markdown, LaTeX and on the terminal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from experiments.files import write_text


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
        plain = self.cells.set_axis(self._headings(), axis=1)
        plain = plain.rename_axis([name or "" for name in plain.index.names]).reset_index()
        head = [f"**{self.title}**"] if self.title else []
        return "\n\n".join([*head, markdown(plain, self.cells.index.nlevels), *self.notes]) + "\n"

    def latex(self) -> str:
        """For the packages booktabs and multirow."""
        cells = self.cells.rename_axis(
            [_escaped(str(name or "")) for name in self.cells.index.names]
        )
        if not any(cells.columns.get_level_values(1)):
            cells = cells.droplevel(1, axis=1)
        style = cells.style.format(escape="latex")
        for axis in (0, 1):
            style = style.format_index(escape="latex", axis=axis)
        columns = "l" * cells.index.nlevels + "r" * cells.shape[1]
        caption = _escaped(self.title) or None
        latex = style.to_latex(
            column_format=columns, hrules=True, multicol_align="c", caption=caption
        )
        return latex.replace("±", r"$\pm$")

    def write(self, stem: Path) -> None:
        """Write <stem>.md and <stem>.tex."""
        write_text(stem.with_suffix(".md"), self.markdown())
        write_text(stem.with_suffix(".tex"), self.latex())

    def print(self) -> None:
        """Print to the terminal, subheadings as in Markdown."""
        console, table = Console(), Table()
        for name in self.cells.index.names:
            table.add_column(str(name or ""), no_wrap=True)
        for heading, sub in zip(
            self._headings(), self.cells.columns.get_level_values(1), strict=True
        ):
            table.add_column(heading, justify="right", style="dim" if sub else None)
        for i, row in enumerate(self.cells.reset_index().to_numpy().tolist()):
            table.add_row(*map(str, row), end_section=i == self.rule)
        if self.title:
            console.print(self.title, style="bold", highlight=False)
        wide = console.options.update(max_width=1000)
        needed = Measurement.get(console, wide, table).maximum
        console.width = max(console.width, needed)  # a terminal that is too narrow breaks lines
        console.print(table)
        for note in self.notes:
            console.print(note, style="dim", highlight=False)

    def _headings(self) -> list[str]:
        tops, subs = (self.cells.columns.get_level_values(level) for level in (0, 1))
        return [str(sub or top) for top, sub in zip(tops, subs, strict=True)]


def markdown(table: pd.DataFrame, labels: int) -> str:
    """A table in GitHub's Markdown, its index apart; `labels` columns are flush left."""
    rows = [list(map(str, row)) for row in [[*table], *table.to_numpy().tolist()]]
    sides = ["<"] * labels + [">"] * (table.shape[1] - labels)
    widths = [max(len(head) + 2, *map(len, rest)) for head, *rest in zip(*rows, strict=True)]
    formats = [f" {{:{side}{width}}} " for side, width in zip(sides, widths, strict=True)]
    rules = [
        (":" + "-" * (w + 1))[:: 1 if s == "<" else -1] for s, w in zip(sides, widths, strict=True)
    ]
    lines = [[f.format(text) for f, text in zip(formats, row, strict=True)] for row in rows]
    return "\n".join(f"|{'|'.join(line)}|" for line in [lines[0], rules, *lines[1:]])


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
