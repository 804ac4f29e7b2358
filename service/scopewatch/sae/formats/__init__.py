"""One module per publisher's format: how its files are known, and what they mean in terms of `weights.Sae`.

A module declares its formats in `FORMATS`, and nothing else has to be touched for it to be found.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.weights import Sae


@dataclass(frozen=True, slots=True)
class Format:
    """A publisher's format: by what its files are known, and how they are opened."""

    name: str
    endings: tuple[str, ...]
    """Endings of the weights file."""
    open: Callable[[SaeFiles], Sae]
    """Raises `SaeError` where the files cannot be read right; the message says why."""
    arrays: tuple[str, ...] = ()
    """Arrays that the weights file has to hold."""
    beside: str = ""
    """A JSON file that has to lie in the folder of the weights or in the one above."""
    field: str = ""
    """A field of that file, by which it is known from others of the same name, such as a model's config.json; then it
    has to lie in the folder of the weights."""
    ambiguity: int = 0
    """Of two formats that fit, the one with the lower number is meant: 0 where no other format has such arrays, 1 and 2
    where settings of a rare or a common name tell it, 3 where other formats have the same arrays too."""

    def fits(self, files: SaeFiles) -> bool:
        """Whether an SAE's files have all marks of this format."""
        if files.file.suffix not in self.endings or not all(name in files.weights for name in self.arrays):
            return False
        return files.states(self.beside, self.field) if self.field else self.beside in {"", *files.beside}


def known_formats() -> list[Format]:
    """Every format that a module in this folder declares, in the order in which they are tried."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    formats: list[Format] = [known for module in modules for known in module.FORMATS]
    return sorted(formats, key=lambda known: (known.ambiguity, known.name))
