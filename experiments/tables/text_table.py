"""A table of text as Markdown, LaTeX and on the terminal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from experiments.files import write_text


@dataclass(frozen=True)
class TextTable:
    """Cells of text.

    Args:
        title: a line above, none if empty, and LaTeX's caption and label.
        cells: columns are pairs of a heading and a subheading; both axes are shown.
        notes: lines below.
        rule: number of the row with a rule below it; None for none.
        best: of the shape of the cells, those in bold; None for none.
    """

    title: str
    cells: pd.DataFrame
    notes: Sequence[str] = ()
    rule: int | None = None
    best: pd.DataFrame | None = None

    def markdown(self) -> str:
        """GitHub's Markdown; of a column's two headings the subheading, if there is one."""
        bold = self.cells.where(~self._best, "**" + self.cells + "**")
        plain = bold.set_axis(self._headings(), axis=1)
        plain = plain.rename_axis([name or "" for name in plain.index.names]).reset_index()
        head = [f"**{self.title}**"] if self.title else []
        return "\n\n".join([*head, markdown(plain, self.cells.index.nlevels), *self.notes]) + "\n"

    def latex(self) -> str:
        """A floating table for the package booktabs, its notes below."""
        cells = self.cells.rename_axis(
            [_escaped(str(name or "")) for name in self.cells.index.names]
        )
        best = self._best
        if not any(cells.columns.get_level_values(1)):
            cells, best = cells.droplevel(1, axis=1), best.droplevel(1, axis=1)
        style = cells.style.format(escape="latex")
        for axis in (0, 1):
            style = style.format_index(escape="latex", axis=axis)
        style = style.apply(lambda _: best.map({True: "textbf:--rwrap", False: ""}.get), axis=None)
        title = self.title or "Results"
        latex = style.to_latex(
            column_format="l" * cells.index.nlevels + "r" * cells.shape[1],
            hrules=True,
            multicol_align="c",
            multirow_align="naive",
            caption=_escaped(title),
            label=f"tab:{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}",
            position_float="centering",
        )
        notes = "".join(rf"\par\footnotesize {_escaped(note)}" + "\n" for note in self.notes)
        latex = latex.replace(r"\end{table}", notes + r"\end{table}")
        signed = re.sub(r"(?<=[ \[])-(?=\d)", "$-$", latex.replace("±", r"$\pm$"))
        return "% \\usepackage{booktabs}\n" + signed

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
        labels = self.cells.index.to_frame().to_numpy().tolist()
        rows = zip(self.cells.to_numpy(), self._best.to_numpy(), strict=True)
        for i, (row, best) in enumerate(rows):
            texts = [Text(text, "bold" if b else "") for text, b in zip(row, best, strict=True)]
            table.add_row(*map(Text, map(str, labels[i])), *texts, end_section=i == self.rule)
        if self.title:
            console.print(self.title, style="bold", highlight=False)
        wide = console.options.update(max_width=1000)
        needed = Measurement.get(console, wide, table).maximum
        console.width = max(console.width, needed)  # a terminal that is too narrow breaks lines
        console.print(table)
        for note in self.notes:
            console.print(note, style="dim", highlight=False, markup=False)

    @property
    def _best(self) -> pd.DataFrame:
        marked = False if self.best is None else self.best.to_numpy()
        return pd.DataFrame(marked, self.cells.index, self.cells.columns)

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
    names = {"\\": "textbackslash{}", "~": "textasciitilde{}", "^": "textasciicircum{}"}
    return re.sub(r"[&%$#_{}\\~^]", lambda found: f"\\{names.get(found[0], found[0])}", text)
