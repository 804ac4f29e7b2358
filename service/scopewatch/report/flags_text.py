"""Recent flags as text for a terminal."""

from collections.abc import Iterator, Sequence

from scopewatch.audit.recent_flags import Flag
from scopewatch.report.visible import one_line

_LONGEST = 256


def flags_text(flags: Sequence[Flag]) -> str:
    """The flags, each with its indicators below it; none of a caller's characters steers the terminal."""
    return (
        "\n".join(line for flag in flags for line in _lines(flag)) or "No pair was flagged since the service started."
    )


def _lines(flag: Flag) -> Iterator[str]:
    kept = "text kept" if flag.text_kept else "text not kept"
    pair, watchlist = one_line(flag.request_id, _LONGEST), one_line(flag.watchlist, _LONGEST)
    yield f"{flag.time:%Y-%m-%d %H:%M:%S} UTC  {pair}  by {watchlist}, {kept}"
    for one in flag.indicators:
        yield f"  {one.severity:7} {one_line(one.name, _LONGEST)}  {one.score:.4g}, above {one.threshold:.4g}"
