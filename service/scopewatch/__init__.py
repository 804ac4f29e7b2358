"""Watches what happens inside a language model: SAE features of LLM outputs, scored, cached and exported."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_EMBEDDED = {"open": "open_scorer", "score": "score"}
"""What scores pairs in this process, by the name it has here; imported when it is asked for, since it imports torch."""


def __getattr__(name: str) -> Any:
    if name not in _EMBEDDED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        embedded = import_module("scopewatch.embedded")
    except ModuleNotFoundError as error:
        if error.name != "scopewatch.embedded":
            raise
        raise ImportError(
            f"scopewatch.{name} scores in this process and needs the package scopewatch; only its client, "
            "scopewatch-client, is installed here: pip install scopewatch"
        ) from None
    return getattr(embedded, _EMBEDDED[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *_EMBEDDED])
