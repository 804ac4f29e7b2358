"""Tables of the pairs that an indicator gets most wrong, with their texts around the words on which it fired."""

from scopewatch.calibration.wrong_pairs import Mistakes, WrongPair, WrongPairs
from scopewatch.report.excerpts import Excerpt, Place, excerpt
from scopewatch.report.tables import Cell, Table, table_of_columns
from scopewatch.types import Segment

_AROUND, _MOST = 60, 320
"""How many characters an excerpt of the text that is judged has: around a place, and in all."""
_MARKED = 6
"""How many places are marked in an excerpt: those where the indicator was strongest."""
_OTHER = 160
"""How many characters are shown of the text beside it."""


def tables_of(mistakes: Mistakes, judged: Segment, *, texts: bool) -> list[Table]:
    """The tables of false positives and of false negatives for a page; none of what there is none of.

    Args:
        mistakes: The pairs.
        judged: The segment that the indicator reads.
        texts: Whether the texts are shown.
    """
    kinds = (
        ("False positives", "of label 0 that score above their threshold", mistakes.false_positives),
        ("False negatives", "of label 1 that do not score above their threshold", mistakes.false_negatives),
    )
    return [_table(title, which, wrong, judged, texts) for title, which, wrong in kinds if wrong.worst]


def tables_for_terminal(mistakes: Mistakes, judged: Segment, *, texts: bool, most: int = 3) -> list[Table]:
    """Likewise, short: the worst few, with a few words of the text that is judged."""
    kinds = (("False positives", mistakes.false_positives), ("False negatives", mistakes.false_negatives))
    return [
        Table(
            f"{title}: the worst {len(wrong.worst[:most])} of {wrong.n:,}",
            ("id", "score", "threshold", *(["text"] if texts else [])),
            [
                (one.pair.known_as, one.score, one.threshold, *([_excerpt(one, judged, 20, 60)] if texts else []))
                for one in wrong.worst[:most]
            ],
        )
        for title, wrong in kinds
        if wrong.worst
    ]


def _table(title: str, which: str, wrong: WrongPairs, judged: Segment, texts: bool) -> Table:
    before = Segment.HISTORY if judged is Segment.HISTORY else Segment.PROMPT
    columns: dict[str, list[Cell]] = {
        "id": [one.pair.known_as for one in wrong.worst],
        "score": [one.score for one in wrong.worst],
        "threshold": [one.threshold for one in wrong.worst],
    }
    for segment in (before, Segment.RESPONSE) if texts else ():
        most = _MOST if segment is judged else _OTHER
        columns[segment.name.lower()] = [_excerpt(one, segment, _AROUND, most) for one in wrong.worst]
    columns["group"] = [one.pair.group for one in wrong.worst]
    if len({one.pair.source for one in wrong.worst}) > 1:
        columns["source"] = [one.pair.source for one in wrong.worst]
    note = f"{len(wrong.worst)} of {wrong.n:,} pairs {which}, those furthest from it first."
    if texts:
        note += " Marked: where the indicator fired most. The texts are those of your data; --no-texts leaves them out."
    return table_of_columns(title, columns, note)


def _excerpt(one: WrongPair, segment: Segment, around: int, most: int) -> Excerpt:
    """An excerpt of a text of the pair; of a history, of the turn on which the indicator was strongest."""
    pair, spans = one.pair.pair, [span for span in one.spans if span.segment is segment]
    text = pair.prompt if segment is Segment.PROMPT else pair.response
    if segment is Segment.HISTORY:
        turn = spans[0].turn if spans else len(pair.history) - 1
        text, spans = pair.history[turn].content, [span for span in spans if span.turn == turn]
    return excerpt(text, [Place(span.start, span.end) for span in spans[:_MARKED]], around=around, most=most)
