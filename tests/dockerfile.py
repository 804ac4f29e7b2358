"""The Dockerfile, read without building it: its stages, and what stands in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Stage:
    """A stage of the Dockerfile.

    Args:
        name: Its name; empty for the last.
        base: The image or the stage that it starts from.
        instructions: Words and their arguments.
    """

    name: str
    base: str
    instructions: list[tuple[str, str]]

    def all(self, word: str) -> list[str]:
        """The arguments of every instruction of a kind."""
        return [rest for own, rest in self.instructions if own == word]


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def stages() -> dict[str, Stage]:
    """The stages by their names, in the file's order."""
    found: list[Stage] = []
    for word, rest in dockerfile():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(name, base, []))
        elif found:
            found[-1].instructions.append((word, rest))
    assert len(found) == len({stage.name for stage in found})
    return {stage.name: stage for stage in found}


def whole(target: str) -> list[tuple[str, str]]:
    """The instructions of a stage, after those of the stages that it starts from."""
    stage = stages()[target]
    return (whole(stage.base) if stage.base in stages() else []) + stage.instructions


def last(target: str, word: str) -> str:
    """The argument of the last instruction of a kind, which is the one that counts."""
    return [rest for own, rest in whole(target) if own == word][-1]


def environment(target: str) -> dict[str, str]:
    """The variables that an image sets."""
    pairs = (pair for word, rest in whole(target) if word == "ENV" for pair in rest.split())
    return dict(pair.split("=", 1) for pair in pairs)


def copied() -> Iterator[str]:
    """What the build takes from the checkout."""
    for word, rest in dockerfile():
        if word in {"COPY", "ADD"} and "--from=" not in rest:
            yield from (part for part in rest.split()[:-1] if not part.startswith("--"))
