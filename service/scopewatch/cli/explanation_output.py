"""Where explanations go: to pages, to lines of JSON, or as text to standard output."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.cli.argument_types import check_folder, check_written
from scopewatch.cli.data_files import data_of
from scopewatch.errors import DataError
from scopewatch.files import write_text

if TYPE_CHECKING:
    from scopewatch.explanation import Explanation

STDOUT = Path("-")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `Output`."""
    group = parser.add_argument_group("output (text on standard output, if none is named)")
    group.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="page; a name that does not end in .html is a folder, for a page of each pair, named by its id",
    )
    group.add_argument(
        "--json", type=Path, metavar="FILE", help="JSON, one line a pair (docs/explanation.schema.json); - prints it"
    )
    group.add_argument("--overwrite", action="store_true", help="replace files that exist")
    group.add_argument(
        "--reference-data",
        action="append",
        default=[],
        metavar="FILE",
        help="data that the cards were made with: the page shows the texts of benign pairs; may be given again",
    )


class Output:
    """Writes explanations to where the arguments say.

    Args:
        args: The arguments.
        ids: The ids of the pairs that are to be explained.

    Raises:
        DataError: Something could not be written, or exists already, or the reference data cannot be read.
    """

    def __init__(self, args: argparse.Namespace, ids: Sequence[str]) -> None:
        from scopewatch.lifecycle.explanation_files import is_page, pages_of
        from scopewatch.pairs.data_files import Reading

        self._reference_data = data_of(args.reference_data, Reading())
        self._json = args.json
        self._pages = pages_of(args.html, ids) if args.html else []
        self._lines: list[str] = []
        if args.html and not is_page(args.html):
            check_folder(args.html)
        else:
            check_written(args.html)
        lines = None if args.json == STDOUT else args.json
        check_written(lines)
        for file in filter(None, (*self._pages, lines)):
            if file.is_file() and not args.overwrite:
                raise DataError(f"{file}: exists already; give another name, or --overwrite")

    def write(self, number: int, explanation: "Explanation") -> None:
        """Writes an explanation; JSON for a file is gathered until `close`.

        Args:
            number: The index of its pair.
            explanation: The explanation.
        """
        if self._pages:
            self._write_page(self._pages[number], explanation)
        line = explanation.model_dump_json()
        if self._json == STDOUT:
            print(line)
        elif self._json:
            self._lines.append(f"{line}\n")
        elif not self._pages:
            from scopewatch.report.explanation_text import explanation_text

            print(explanation_text(explanation))

    def close(self) -> None:
        """Writes what is gathered; nothing where no pair was explained."""
        if self._lines:
            write_text(self._json, "".join(self._lines))

    def _write_page(self, page: Path, explanation: "Explanation") -> None:
        from scopewatch.lifecycle.explanation_files import benign_texts
        from scopewatch.report.explanation_page import explanation_html

        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, explanation_html(explanation, references=benign_texts(explanation, self._reference_data)))
        told = sys.stderr if self._json == STDOUT else sys.stdout
        print(f"{page}: {explanation.verdict.upper()}", file=told)
