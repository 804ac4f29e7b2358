"""The pages that explanations are written to, and the texts that stand on them beside the pair's own."""

import re
from collections.abc import Sequence
from pathlib import Path

from scopewatch.errors import DataError
from scopewatch.explanation import Explanation
from scopewatch.pairs.data_files import read_texts

_LONGEST_NAME = 60


def is_page(place: Path) -> bool:
    """Whether a place is one page, by its name, and not a folder of pages."""
    return place.suffix.lower() in {".html", ".htm"}


def pages_of(place: Path, ids: Sequence[str]) -> list[Path]:
    """The file of the page of each pair.

    Args:
        place: One page, or a folder, in which pages have the names of the pairs' ids.
        ids: The ids of the pairs.

    Raises:
        DataError: One page is named for several pairs.
    """
    if is_page(place):
        if len(ids) > 1:
            raise DataError(f"{place}: is one page, and there are {len(ids)} pairs; name a folder, without .html")
        return [place]
    pages, taken = [], dict[str, int]()
    for each in ids:
        # A name must lead to no other folder, be hidden from nobody, and be another on every file system.
        name = re.sub(r"[^\w.-]+", "_", each)[:_LONGEST_NAME].strip("._-") or "pair"
        taken[name.lower()] = number = taken.get(name.lower(), 0) + 1
        pages.append(place / (f"{name}.html" if number == 1 else f"{name} ({number}).html"))
    return pages


def benign_texts(explanation: Explanation, files: Sequence[Path]) -> dict[str, str]:
    """The texts of the benign pairs that an explanation names, by what it calls them, as far as files hold them.

    Args:
        explanation: The explanation.
        files: The data that the cards were made with.

    Raises:
        DataError: A file cannot be read.
    """
    named = {pair.id for indicator in explanation.indicators for pair in indicator.benign_pairs}
    if not named or not files:
        return {}
    found = [item for item in read_texts(*files).pairs if item.known_as in named]
    return {item.known_as: f"{item.pair.prompt}\n\n{item.pair.response}".strip() for item in found}
