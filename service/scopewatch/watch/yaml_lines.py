"""Reading YAML so that the line of each value is known."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from scopewatch.errors import WatchlistError

Location = tuple[str | int, ...]
"""Path of a value: keys and indices from the top of the document."""
Mistake = tuple[Location, str]
_FREE_ENTRIES = 10_000
"""How many more entries than characters anchors may make of a file."""
_TEXT_KEYS = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"})


@dataclass(frozen=True, slots=True)
class Lines:
    """The line of every value of a document."""

    _of: dict[Location, int]

    def of(self, location: Location) -> int:
        """The line, counted from 1, of a value or of the nearest one around it."""
        known = self._known(location)
        while known not in self._of:
            known = known[:-1]
        return self._of[known]

    def name(self, location: Location) -> str:
        """The path of a value in words, such as `indicators[0].features[2].weight`."""
        parts = self._known(location)
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
        return dotted.removeprefix(".") or "the file"

    def _known(self, location: Location) -> Location:
        """A path without the parts that pydantic adds to it for unions; a missing key at its end stays."""
        known: Location = ()
        for part in location:
            if (*known, part) in self._of:
                known = (*known, part)
        last = location[-1] if location else ""
        missing = isinstance(last, str) and re.fullmatch(r"[a-z_]+", last) and (not known or known[-1] != last)
        return (*known, last) if missing else known


def parse_yaml(text: str, file: Path) -> tuple[Any, Lines, list[Mistake]]:
    """Plain values, the line of each, and the mistakes that do not stop the parser (a key that stands twice).

    Raises:
        WatchlistError: The text is not YAML, or of a kind that is refused: keys other than text, endless anchors.
    """
    lines: dict[Location, int] = {(): 1}
    mistakes: list[Mistake] = []
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise WatchlistError(f"{file}:1: the file is empty")
        _walk(node, (), lines, mistakes, set(), most=_FREE_ENTRIES + len(text))
        return loader.construct_document(node), Lines(lines), mistakes
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise WatchlistError(f"{file}:{line}: not valid YAML: control character {error.character!r}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise WatchlistError(f"{file}:{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise WatchlistError(f"{file}:1: not valid YAML: {str(error).splitlines()[0]}") from None


class _Loader(yaml.SafeLoader):
    """A loader whose errors say where a value stands that looks like a number or a date and is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None


def _walk(
    node: yaml.Node,
    path: Location,
    lines: dict[Location, int],
    mistakes: list[Mistake],
    open_nodes: set[int],
    *,
    most: int,
) -> None:
    lines[path] = node.start_mark.line + 1
    if id(node) in open_nodes or len(lines) > most:
        problem = "anchors that contain themselves or multiply without end"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    open_nodes = open_nodes | {id(node)}
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            if key.tag not in _TEXT_KEYS:
                problem = "a key that is not text; quote it if it is meant"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            child_path = (*path, key.value)
            if child_path in lines:
                lines[child_path] = key.start_mark.line + 1
                mistakes.append((child_path, "this key stands twice"))
                continue
            _walk(child, child_path, lines, mistakes, open_nodes, most=most)
            lines[child_path] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _walk(child, (*path, index), lines, mistakes, open_nodes, most=most)
