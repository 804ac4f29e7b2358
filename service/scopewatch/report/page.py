"""HTML pages, made by jinja2 and the templates beside this file: a page needs nothing else to be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scopewatch.report.excerpts import Excerpt
from scopewatch.report.figures import Figure
from scopewatch.report.tables import Table, numeric, shown
from scopewatch.report.visible import visible


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
    return rendered("page.html", title=title, lines=lines, tables=tables, figures=figures, numbers=numbers, look=look())


def rendered(template: str, **values: object) -> str:
    """A template of this folder, filled. Every text is escaped, and its unseen characters are told by their numbers.

    Args:
        template: The name of the template's file.
        values: What the template names.
    """
    return str(_environment().get_template(template).render(values))


def look() -> str:
    """The style that all pages share."""
    return beside("look.css")


def beside(file: str) -> str:
    """What a file of this folder holds."""
    return Path(__file__).with_name(file).read_text(encoding="utf-8")


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        finalize=_seen,
    )
    environment.filters |= {"shown": shown, "numeric": numeric, "minus": _minus}
    environment.tests["excerpt"] = lambda cell: isinstance(cell, Excerpt)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def _seen(value: object) -> object:
    """A value as it is put out; what is HTML already stays as it is."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _minus(number: str) -> str:
    """A number with the minus sign that browsers neither break lines after nor leave unsaid."""
    return number.replace("-", "\N{MINUS SIGN}")
