"""What is written into files that other programs open."""

from typing import TypeVar

Cell = TypeVar("Cell")


def cell(value: Cell) -> Cell | str:
    """A value for a csv file; text that a spreadsheet would take for a formula is quoted.

    >>> cell("=1+1.png"), cell("bottle"), cell(-0.5)
    ("'=1+1.png", 'bottle', -0.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value
