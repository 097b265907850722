"""Rows of numbers under column names, as text, Markdown and HTML."""

from dataclasses import dataclass
from html import escape

Cell = str | float | int | None  # None where nothing was measured


@dataclass(frozen=True)
class Table:
    """What a report says at a glance."""

    title: str  # "k-NN, top-1 and top-5 in per cent (Tables 1, 10, 15)"
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def text(self) -> str:
        """The title, then columns that stand under each other; numbers with two decimals."""
        lines = [self.columns, *(tuple(map(written, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        body = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([self.title, *body])

    def markdown(self) -> str:
        """The table alone, without its title."""
        lines = [self.columns, ("---",) * len(self.columns), *(tuple(map(written, row)) for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def html(self) -> str:
        """The table alone, without its title."""
        head, *body = ("".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line) for tag, line in self._tagged())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in body)}</tbody></table>"

    def _tagged(self) -> list[tuple[str, tuple[str, ...]]]:
        return [("th", self.columns), *(("td", tuple(map(written, row))) for row in self.rows)]


def written(cell: Cell) -> str:
    """A number with two decimals, a whole one or a word as it is, and a dash for what is missing."""
    if cell is None:
        return "-"
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
