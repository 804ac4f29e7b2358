"""Replies that fit into one message: what a plain client takes with its defaults, in any language, is 4 MiB."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from google.rpc import status_pb2

from scopewatch.contract.status import to_status
from scopewatch.errors import FieldViolation, InvalidRequest

Result: TypeAlias = bytes | status_pb2.Status
Shorter: TypeAlias = Callable[[int, int], bytes]
"""Given the number of a reply, and how many features and spans its indicators may show, that reply, serialised."""
_SHOWN = (64, 16, 4, 1, 0)
"""How many features and spans an indicator shows where a reply is too large, tried one after another."""
_AROUND_BYTES = 16
"""What stands around a result in a batch, at most."""


def fitting(whole: Sequence[Result], shorter: Shorter, max_bytes: int) -> list[Result]:
    """The results of a call, so that all of them together fit into a message.

    Those that are larger than what each may take are shortened, first of all in what they show of features and spans.
    One that is too large even without is refused; its score is there in a smaller batch.

    Args:
        whole: The results in full: serialised replies, and statuses.
        shorter: Makes a shorter reply.
        max_bytes: The size of the message.
    """
    sizes = [_size(one) for one in whole]
    if sum(sizes) <= max_bytes:
        return list(whole)
    share = _share(sizes, max_bytes)
    return [
        _shortened(shorter, number, share) if isinstance(one, bytes) and sizes[number] > share else one
        for number, one in enumerate(whole)
    ]


def _shortened(shorter: Shorter, number: int, share: int) -> Result:
    for most in _SHOWN:
        if _size(reply := shorter(number, most)) <= share:
            return reply
    mend = "send fewer requests at once"
    return to_status(InvalidRequest(FieldViolation("requests", f"the reply would be too large; {mend}")))


def _share(sizes: Sequence[int], max_bytes: int) -> int:
    """The most bytes of one result, so that all that are smaller keep theirs and the others share the rest."""
    rest, waiting = max_bytes, sorted(sizes)
    for number, size in enumerate(waiting):
        if size > (share := rest // (len(waiting) - number)):
            return share
        rest -= size
    return max_bytes


def _size(one: Result) -> int:
    return _AROUND_BYTES + (len(one) if isinstance(one, bytes) else one.ByteSize())
