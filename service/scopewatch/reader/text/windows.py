"""What of a pair is read: all of it where it fits, else the end of what comes before, and the answer in windows.

A pair that is longer than the reader takes at once loses its oldest content first: history from its start, then the
prompt from its start, then whatever else stands before the answer, but for the first token. A quarter of what the
reader takes is left for it. An answer that does not fit behind it is read in several windows, with the same beginning
before each; each begins with the end of the one before it, so that no token is read without what stands before it.
"""

from dataclasses import dataclass, replace

import numpy as np

from scopewatch.reader.text.located import Tokens
from scopewatch.types import Bools, Coverage, Indices, Segment

_HEAD_SHARE = 4
"""Which part of a pass what comes before an answer may always have: a quarter."""
_OVERLAP_SHARE = 4
"""Which part of the room for an answer is read again in the next window."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The tokens of all windows, one behind the other."""

    tokens: Tokens
    window_tokens: tuple[int, ...]
    """The number of tokens of each window; empty where there is only one."""
    coverage: Coverage


def windows(head: Tokens, answer: Tokens, says: Coverage, *, max_tokens: int, max_windows: int) -> Windows:
    """Chooses what is read of a pair.

    Args:
        head: Everything before the answer.
        answer: The answer's tokens; together with the head's at least one.
        says: What the coverage says beside how much is read; as `unscored` the segments that hold text.
        max_tokens: The most tokens of one pass, at least 16.
        max_windows: The most passes.
    """
    # Attention rests on the first token, whatever it is, and its activations are of another size than all others.
    (head if len(head) else answer).scored[0] = False
    budget = max(max_tokens - len(answer), max_tokens // _HEAD_SHARE)
    before = head if len(head) <= budget else head[_kept(head, budget)]
    room = max_tokens - len(before)
    overlap = room // _OVERLAP_SHARE
    parts = [before, answer[:room]]
    sizes = [len(before) + min(room, len(answer))]
    read = room
    while read < len(answer) and len(sizes) < max_windows:
        again, fresh = answer[read - overlap : read], answer[read : read + room - overlap]
        parts += [before.as_context(), again.as_context(), fresh]
        sizes.append(len(before) + len(again) + len(fresh))
        read += len(fresh)
    tokens = Tokens.joined(parts)
    count = _counts(tokens)
    whole = before is head and len(answer) <= room
    dropped = np.zeros_like(count) if whole else _counts(head) + _counts(answer) - count
    unheard = {segment.name.lower() for segment in Segment if not count[segment] and not dropped[segment]}
    coverage = replace(
        says,
        unscored=tuple(name for name in says.unscored if name in unheard),
        tokens=sum(sizes),
        prompt_tokens=int(count[Segment.PROMPT]),
        response_tokens=int(count[Segment.RESPONSE]),
        history_tokens=int(count[Segment.HISTORY]),
        prompt_tokens_dropped=int(dropped[Segment.PROMPT]),
        response_tokens_dropped=int(dropped[Segment.RESPONSE]),
        history_tokens_dropped=int(dropped[Segment.HISTORY]),
        windows=len(sizes),
    )
    return Windows(tokens, tuple(sizes) if len(sizes) > 1 else (), coverage)


def _counts(tokens: Tokens) -> Indices:
    """The number of tokens of each segment that count."""
    return np.bincount(tokens.segments[tokens.scored], minlength=len(Segment))


def _kept(head: Tokens, budget: int) -> Bools:
    """Which tokens before the answer stay, `budget` of them at most."""
    kept = np.ones(len(head), np.bool_)
    over = len(head) - budget
    for segment in (Segment.HISTORY, Segment.PROMPT, None):
        own = np.flatnonzero(kept if segment is None else head.segments == segment)
        if over > 0 and len(own):
            # With what the template wrote between them, but never the first token.
            region = np.arange(max(own[0], 1), own[-1] + 1)
            region = region[kept[region]][:over]
            kept[region] = False
            over -= len(region)
    return kept
