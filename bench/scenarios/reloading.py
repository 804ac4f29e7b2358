"""Watchlists reloaded under load, by `reloads.py`."""

from reloads import reloads
from scenarios.checks import Case, exactly, none_of


def reloading(scale: float) -> list[Case]:
    """Changes a server's watchlist 200 times, a tenth of them to a broken file."""
    found = reloads(max(10, round(200 * scale)))
    checks = [
        none_of("failed calls", found["failed_calls"]),
        none_of("mixed replies", found["mixed_replies"]),
        none_of("replies of an earlier version", found["replies_of_an_earlier_version"]),
        exactly("broken files named", found["broken_named"], found["broken"]),
        exactly("versions loaded", found["versions"], found["reloads"] - found["broken"] + 1),
    ]
    return [Case(f"{found['reloads']} reloads, {found['broken']} of broken files, 16 callers", checks, found)]
