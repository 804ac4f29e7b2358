"""One HTML page of what was measured, made by jinja2 and `page.html`: it needs nothing else to be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scopewatch.report.excerpts import Excerpt
from scopewatch.report.figures import Figure
from scopewatch.report.tables import Table, numeric, printable, shown


@dataclass(frozen=True, slots=True)
class Number:
    """One of the numbers that matter most, which stand above the figures."""

    name: str
    value: str
    detail: str = ""
    """The number's interval or bound, or what it is a share of."""


def html_page(
    title: str,
    lines: Sequence[str],
    tables: Sequence[Table],
    figures: Sequence[Figure],
    numbers: Sequence[Number] = (),
) -> str:
    """One HTML page that needs nothing else: no script, no network, light or dark as its reader prefers.

    Args:
        title: The heading.
        lines: The paragraphs below the heading.
        tables: The tables, below everything else.
        figures: The drawings, above the tables.
        numbers: The numbers that matter most, above the drawings.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "numeric": numeric, "printable": printable}
    environment.tests |= {"excerpt": lambda cell: isinstance(cell, Excerpt)}
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.render(title=title, lines=lines, tables=tables, figures=figures, numbers=numbers)
