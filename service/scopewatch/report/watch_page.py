"""The pages for whoever is on call: which pairs were flagged lately, and why each was."""

from collections.abc import Sequence

from scopewatch.audit.recent_flags import MOST_FLAGS, Flag
from scopewatch.explanation import Explanation
from scopewatch.report.explanation_page import explanation_html
from scopewatch.report.page import look, rendered


class WatchPages:
    """Writes the pages, as HTML that needs nothing else."""

    def flags(self, flags: Sequence[Flag]) -> str:
        """The list of flags; each pair's id leads to its explanation."""
        many = (
            f"{len(flags) or 'No'} {'pair was' if len(flags) == 1 else 'pairs were'} flagged since the service started"
        )
        forgotten = f"; only the last {MOST_FLAGS} are remembered" if len(flags) == MOST_FLAGS else ""
        lines = [f"{many}{forgotten}.", *["A pair's name opens its explanation, if its text is kept."][: len(flags)]]
        return _page("Recent flags", lines, flags, links=True)

    def explanation(self, explanation: Explanation) -> str:
        """Why a pair was flagged."""
        return explanation_html(explanation)

    def no_text(self, request_id: str, flags: Sequence[Flag]) -> str:
        """What is known of a pair whose text is not kept, and how to keep texts.

        Args:
            request_id: Its id.
            flags: The flags that were raised under this id, if they are remembered.
        """
        if flags and flags[0].text_kept:
            why = (
                "Its text was to be kept and is not there: it was deleted when it was old, or the disk did not take it."
            )
        elif flags:
            why = (
                "This service keeps no texts, so nothing but the scores is known of this pair. To have flagged pairs "
                "explained here, start it with --audit-dir FOLDER --audit-text flag; their texts are then kept there "
                "for --text-days days."
            )
        else:
            why = "No flag is remembered under this id, and no text is kept."
        return _page(f"No explanation of {request_id}", [why], flags, links=False)


def _page(title: str, lines: Sequence[str], flags: Sequence[Flag], *, links: bool) -> str:
    return rendered("watch.html", title=title, lines=lines, flags=flags, links=links, look=look())
