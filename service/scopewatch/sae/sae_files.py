"""An SAE's files as they were published, which a format's module makes an `Sae` of."""

import math
import re
from pathlib import Path

from scopewatch.errors import SaeError
from scopewatch.sae.settings import Settings, read_settings
from scopewatch.sae.tensors import TensorFile


class SaeFiles:
    """The opened weights file, the settings beside it, and what the caller says of the SAE beyond its files.

    Args:
        weights: The opened weights file.
        norm_factor: What activations are multiplied by; None if the caller says nothing of it.
        k: How many features fire per token; None if the caller says nothing of it.
        hookpoint: Where the SAE reads; empty if the caller says nothing of it.
    """

    def __init__(
        self, weights: TensorFile, *, norm_factor: float | None = None, k: int | None = None, hookpoint: str = ""
    ) -> None:
        self.weights = weights
        self.hookpoint = hookpoint
        """Where the SAE reads, as the caller says; it goes before what the files say."""
        self.recipe = ""
        """The settings that the caller alone has said and that change the numbers."""
        self._told = {name: value for name, value in (("norm_factor", norm_factor), ("k", k)) if value is not None}

    @property
    def file(self) -> Path:
        """The weights file."""
        return self.weights.file

    @property
    def path_names(self) -> tuple[str, ...]:
        """The names on the weights file's path, nearest first; never resolved, since a hub cache is made of links."""
        return self.file.absolute().parts[::-1]

    def nearest(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The match of the nearest name on the weights file's path that matches as a whole."""
        return next((match for name in self.path_names if (match := pattern.fullmatch(name))), None)

    @property
    def beside(self) -> set[str]:
        """Names of the JSON files in the folder of the weights and in the one above."""
        return {entry.name for folder in (self.file.parent, self.file.parent.parent) for entry in folder.glob("*.json")}

    def states(self, name: str, field: str) -> bool:
        """Whether there is a JSON file in the folder of the weights that has a field.

        Raises:
            SaeError: The file cannot be read.
        """
        return (self.file.parent / name).is_file() and field in self.settings(name)

    def settings(self, name: str) -> Settings:
        """A JSON file in the folder of the weights."""
        return read_settings(self.file.parent / name)

    def settle(self, name: str, stated: float | None, mend: str) -> float:
        """The value of `norm_factor` or `k`: the one that the files state, or else the caller's.

        Args:
            name: `norm_factor` or `k`.
            stated: The value in the files; None if they state none.
            mend: What the user is told when neither the files nor the caller say it.

        Raises:
            SaeError: Nobody says it, the files and the caller contradict each other, or it is no positive number.
        """
        told = self._told.pop(name, None)
        value = stated if stated is not None else told
        if value is None:
            raise SaeError(f"{self.file}: {mend}")
        if not (math.isfinite(value) and value > 0):
            raise SaeError(f"{self.file}: {name} is {value:g}; expected a positive number")
        if told is not None and not math.isclose(told, value, rel_tol=1e-3):
            raise SaeError(f"{self.file}: {name} {told:g} was given, but the files say {value:g}; leave it out")
        if stated is None:
            self.recipe = f"{name}={value!r}"
        return value

    def all_used(self) -> None:
        """Checks that everything that the caller said was asked for by the format.

        Raises:
            SaeError: The SAE has no use for a value.
        """
        for name, value in self._told.items():
            raise SaeError(f"{self.file}: {name} {value:g} was given, but this SAE has no use for it; leave it out")
