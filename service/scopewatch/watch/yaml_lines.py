"""Reading YAML so that the line of each value is known, and so that every value is what its writer sees.

YAML 1.1 and 1.2 read some words and numbers differently (https://yaml.org/spec/1.2.2/#103-core-schema, and
https://yaml.org/type/ for 1.1). Such are refused: whoever wrote them may have meant either.
"""

import math
import re
from collections.abc import Container
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
_MOST = 1 << 53
"""The largest number up to which every whole number is kept exactly, whatever type it becomes."""
_PLAIN: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
"""The words that stand for no value, true and false."""
_HALF = re.compile(r"[\ud800-\udfff]")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_AMBIGUOUS = (
    (re.compile(r"yes|no|on|off", re.IGNORECASE), "write true or false, or quote it"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"), "write the number without colons, or quote it"),
    (re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+"), "write it as in 1.0e-3, or quote it"),
    (
        re.compile(
            r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*)"
        ),
        "write the number in digits alone, without zeros in front, or quote it",
    ),
    (re.compile(r"=|<<"), "quote it; keys are not merged"),
)
"""What the two versions of YAML read differently, and what to do about it."""


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
        missing = isinstance(last, str) and re.fullmatch(r"[a-z_0-9]+", last) and (not known or known[-1] != last)
        return (*known, last) if missing else known


def parse_yaml(text: str, file: Path, free: Container[Location] = ()) -> tuple[Any, Lines, list[Mistake]]:
    """Plain values, the line of each, and the mistakes that do not stop the parser.

    Such mistakes are a key that stands twice or has no value, and a value that is read in two ways.

    Args:
        text: The YAML.
        file: The file that messages name.
        free: The places, of two keys each, where what is null may stand.

    Raises:
        WatchlistError: The text is not YAML, or of a kind that is refused: tags, keys other than text, endless anchors.
    """
    reading = _Reading(free, most=_FREE_ENTRIES + len(text))
    try:
        node = _Loader(text).get_single_node()
        if node is None:
            raise WatchlistError(f"{file}:1: the file is empty")
        value = reading.value(node, (), frozenset())
        return value, Lines(reading.lines), reading.mistakes
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise WatchlistError(f"{file}:{line}: not valid YAML: control character {error.character!r}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise WatchlistError(f"{file}:{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise WatchlistError(f"{file}:1: not valid YAML: {str(error).splitlines()[0]}") from None


def is_plain_text(value: str) -> bool:
    """Whether a text needs no quotes to be read as one, as far as its characters are not YAML's own."""
    try:
        return isinstance(plain_value(value), str)
    except ValueError:
        return False


def plain_value(text: str) -> Any:
    """What a value without quotes is, by YAML 1.2.

    Raises:
        ValueError: YAML 1.1 reads it differently, or no field takes it; with what to do about that.
    """
    if text in _PLAIN:
        return _PLAIN[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("Input should be a finite number")
    if _INTEGER.fullmatch(text):
        if len(text) > 20 or abs(number := int(text, 0)) > _MOST:
            raise ValueError("a whole number beyond 2^53 is not kept exactly; quote it if it is a name")
        return number
    if _FLOAT.fullmatch(text):
        if math.isinf(value := float(text)):
            raise ValueError("Input should be a finite number")
        return value
    for pattern, mend in _AMBIGUOUS:
        if pattern.fullmatch(text):
            raise ValueError(f"{text:.40} is read differently by YAML 1.1 and 1.2: {mend}")
    return text


def _refusal(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """A loader that refuses half characters, and tags, which make something else of a value than what is written."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"the tag {event.tag}; write the value without a tag", event.start_mark)
        if _HALF.search(getattr(event, "value", None) or ""):
            raise _refusal("half of a character; write it as \\U and eight digits", event.start_mark)
        return super().compose_node(parent, index)


class _Reading:
    """The values of a document's nodes, with the line of each and what is wrong with them."""

    def __init__(self, free: Container[Location], most: int) -> None:
        """`most` is how many values a document may have; `free` is as in `parse_yaml`."""
        self.lines: dict[Location, int] = {}
        self.mistakes: list[Mistake] = []
        self._free = free
        self._most = most

    def value(self, node: yaml.Node, path: Location, around: frozenset[int]) -> Any:
        """The value of a node.

        Args:
            node: The node.
            path: Where it stands.
            around: The ids of the nodes that it stands in.
        """
        self.lines[path] = node.start_mark.line + 1
        if id(node) in around or len(self.lines) > self._most:
            raise _refusal("anchors that contain themselves or multiply without end", node.start_mark)
        around |= {id(node)}
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, around)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index), around) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node.value, path) if node.style is None else node.value

    def _mapping(self, node: yaml.MappingNode, path: Location, around: frozenset[int]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, child in node.value:
            child_path = (*path, self._key(key))
            if key.value in values:
                self.lines[child_path] = key.start_mark.line + 1
                self.mistakes.append((child_path, "this key stands twice"))
                continue
            values[key.value] = self.value(child, child_path, around)
            self.lines[child_path] = key.start_mark.line + 1
        return values

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or (node.style is None and not is_plain_text(node.value)):
            raise _refusal("a key that is not text; quote it if it is meant", node.start_mark)
        return str(node.value)

    def _scalar(self, text: str, path: Location) -> Any:
        try:
            value = plain_value(text)
        except ValueError as error:
            self.mistakes.append((path, str(error)))
            return text
        if value is None and path and path[:2] not in self._free:
            self.mistakes.append((path, "there is no value here; write one, or leave the key out"))
        return value
