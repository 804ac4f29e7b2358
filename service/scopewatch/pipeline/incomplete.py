"""What a watchlist was to judge and could not: the reasons why a verdict is not PASS though nothing is flagged."""

from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.types import Coverage


def incomplete(watchlist: CompiledWatchlist, coverage: Coverage) -> tuple[str, ...]:
    """What was not read whole of the segments that a watchlist's indicators read, one sentence each.

    What the chat template left out is no reason, for the model was not given it either; nor is a prompt or a history
    that holds nothing.

    Args:
        watchlist: The watchlist.
        coverage: How much of the pair was read.
    """
    found = []
    for segment in sorted({indicator.segment for indicator in watchlist.indicators}):
        name = segment.name.lower()
        read, dropped = (getattr(coverage, f"{name}_tokens{which}") for which in ("", "_dropped"))
        if dropped:
            found.append(f"{name}: {dropped} of {read + dropped} tokens were not read")
        elif name in coverage.unscored and not any(text.startswith(name) for text in coverage.unlocated):
            found.append(f"{name}: none of its tokens could be scored")
        found += [
            f"{text}: not found in what the chat template made of it"
            for text in coverage.unlocated
            if text.startswith(name)
        ]
    return tuple(found)
