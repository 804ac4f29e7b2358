"""Every attack of `attacks/run.py` on a server of its own: memory, liveness, threads and descriptors."""

from collections.abc import Mapping
from typing import Any

from attacks.run import ATTACKS, attacked
from scenarios.checks import Case, at_most, none_of
from scopewatch.config import Config

READERS = 8
"""The number of requests that the gRPC door lets arrive at once."""
_LIVENESS_S = 1.0
_MORE = 4
"""The number of threads or descriptors that a server may have more of than before: threads of pools start when they
are first needed, and the observer's own connection is one."""


def budget_mib(config: Config) -> int:
    """What requests may take beside the resting size: all that are counted, and those that arrive, twice each."""
    transport = max(16 << 20, 2 * config.max_message_bytes)
    return (config.max_calls_bytes + 2 * READERS * transport) >> 20


def attacks(scale: float, names: tuple[str, ...] = tuple(ATTACKS)) -> list[Case]:
    """Attacks a new server with each attack.

    Args:
        scale: Size of the attacks, as a share of the full size.
        names: Which attacks.
    """
    return [judged(name, attacked(ATTACKS[name], scale)) for name in names]


def judged(name: str, seen: Mapping[str, Any]) -> Case:
    """Holds what was seen of a server under attack to the bounds."""
    memory, liveness = seen["resident_mib"], seen["liveness"]
    checks = [
        at_most("RSS MiB", memory["most"], 2 * memory["rest"] + budget_mib(Config())),
        at_most("silent s", liveness["longest_silence_s"], _LIVENESS_S),
        *(
            at_most(f"{what} after", seen[what]["last"], seen[what]["rest"] + _MORE)
            for what in ("threads", "descriptors")
        ),
        none_of("forged lines", seen["forged_lines"]),
        none_of("lines of no format", seen["lines_not_json"]),
    ]
    return Case(name, checks, dict(seen))
