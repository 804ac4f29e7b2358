"""Settings as one source gives them, before anything is checked."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

GONE = {"torch_compile": "leave it out, the reader's layers run in few kernels without it (setting fused)"}
"""Settings of earlier versions, and what to do about them."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a source says, by the setting's name, and what of it is wrong already."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """What a user calls the place where each stands: its variable, its flag, or a file and a line."""
    wrong: list[str] = field(default_factory=list)

    def add(self, name: str, value: object, source: str) -> None:
        """Takes a value."""
        self.values[name] = value
        self.sources[name] = source

    def below(self, other: "Given") -> "Given":
        """Both together: what the other source says counts where both say something."""
        return Given(
            self.values | other.values, self.sources | other.sources, list(dict.fromkeys([*self.wrong, *other.wrong]))
        )


def unknown(said: str, name: str, known: Iterable[str], written: Callable[[str], str] = str) -> str:
    """The sentence that says that there is no such setting, and which was probably meant.

    Args:
        said: Where the name stands.
        name: The name.
        known: The names that there are.
        written: Makes of a name what the source writes for it.
    """
    if name in GONE:
        return f"{said}: is no setting any more: {GONE[name]}"
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {written(close[0])}?" if close else ""
    return f"{said}: no such setting{hint}"
