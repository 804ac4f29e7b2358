"""Mistakes of a watchlist, each a place and plain words: what its schema finds, and names that are wrong."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from scopewatch.watch.yaml_lines import Mistake, is_plain_text


def repeated_names(value: dict[str, Any]) -> list[Mistake]:
    """Mistakes of indicators that have the name of an earlier one."""
    indicators = value.get("indicators")
    seen: set[str] = set()
    mistakes: list[Mistake] = []
    for i, indicator in enumerate(indicators if isinstance(indicators, list) else []):
        name = indicator.get("name") if isinstance(indicator, dict) else None
        if isinstance(name, str) and name in seen:
            mistakes.append((("indicators", i, "name"), f"another indicator is already named {name!r}"))
        elif isinstance(name, str):
            seen.add(name)
    return mistakes


def unknown_parts(value: dict[str, Any]) -> list[Mistake]:
    """Mistakes of combinations that name no other indicator, or one that is a combination itself."""
    indicators = value.get("indicators")
    known = [entry for entry in indicators if isinstance(entry, dict)] if isinstance(indicators, list) else []
    plain = {str(entry.get("name")) for entry in known if entry.get("kind") != "combination"}
    mistakes: list[Mistake] = []
    for i, entry in enumerate(indicators if isinstance(indicators, list) else []):
        parts = entry.get("combines") if isinstance(entry, dict) else None
        for j, part in enumerate(parts if isinstance(parts, list) else []):
            name = part.get("indicator") if isinstance(part, dict) else None
            if isinstance(name, str) and name not in plain:
                there = ", ".join(sorted(plain)) or "none"
                message = (
                    f"there is no indicator of features, a probe, obfuscation or words named {name!r} (there: {there})"
                )
                mistakes.append((("indicators", i, "combines", j, "indicator"), message))
    return mistakes


def mistakes_of(error: ValidationError) -> list[Mistake]:
    """The places and the plain words of what pydantic found wrong."""
    found = [(tuple(problem["loc"]), problem["type"], _plain(problem)) for problem in error.errors()]
    # A list whose items are all wrong is also called too short; only the items are news.
    return [
        (loc, "needs at least one entry" if kind == "too_short" else message)
        for loc, kind, message in found
        if kind != "too_short" or not any(other[: len(loc)] == loc and other != loc for other, _, _ in found)
    ]


def _plain(problem: ErrorDetails) -> str:
    """One problem in the words of someone who writes YAML."""
    value = problem["input"]
    quoted = ": write it without quotes" if isinstance(value, str) and not is_plain_text(value) else ""
    return {
        "extra_forbidden": "no such key here",
        "missing": "missing",
        "float_type": f"Input should be a number{quoted}",
        "int_type": f"Input should be a whole number{quoted}",
        "bool_type": f"Input should be true or false{quoted}",
        "string_type": "Input should be text: quote it if it is meant",
        "tuple_type": "Input should be a list",
        "dict_type": "Input should be a mapping",
        "model_type": "Input should be a mapping",
    }.get(problem["type"], problem["msg"].removeprefix("Value error, "))


def is_at_or_in(name: str, places: Iterable[str]) -> bool:
    """Whether a value stands at one of these places, or somewhere in it."""
    return any(name == place or name.startswith((f"{place}.", f"{place}[")) for place in places)
