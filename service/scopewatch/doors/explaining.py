"""What holds for everybody who has a pair explained, whichever door they come by."""

from scopewatch.doors.role_file import Account
from scopewatch.errors import NotAllowed
from scopewatch.explanation import Explanation

_PASSES = 2
"""How often a pair is read for every explanation: once to be scored, once with the whole dictionaries."""


def check_sees_exact_scores(account: Account) -> None:
    """Refuses whoever is shown rounded scores: an explanation is a sum, and one that is rounded does not add up.

    Raises:
        NotAllowed: They are rounded for this caller.
    """
    if account.round_scores:
        raise NotAllowed(
            "an explanation shows exact scores, and those of this caller are rounded; it needs round_scores: 0"
        )


def tokens_read(explanation: Explanation) -> int:
    """How many tokens the reader read for an explanation, about: what its parts take in passes over the whole pair."""
    ablations = sum(1 + one.controls for one in explanation.ablations)
    shortened = explanation.deletion.scored if explanation.deletion else 0
    return explanation.coverage.tokens * (_PASSES + ablations + shortened)
