"""Where in a row of a file the parts of a pair stand."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice

CONVERSATIONS = ("messages", "conversations", "conversation")
"""The columns that may hold a whole conversation, where no other is named."""
LOGGED = ("request", "body", "choices")
"""The columns of logged calls that hold messages or answers."""
INPUTS = ("tools", "documents", "chat_template_kwargs", "date", "system")
"""The columns that hold what a chat template is given beside the messages."""
TOKENS = ("prompt_token_ids", "response_token_ids")
_SHOWN = 20

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of each part of a pair: a name, or a path of names and numbers such as `output.choices.0.text`."""

    prompt: str = "prompt"
    response: str = "response"
    messages: str = "messages"
    history: str = "history"
    label: str = "label"
    group: str = "group"
    id: str = "id"
    source: str = "source"

    @property
    def renamed(self) -> dict[str, str]:
        """The columns that are not called as usual, by their part."""
        usual = asdict(Columns())
        return {part: column for part, column in asdict(self).items() if column != usual[part]}

    @property
    def conversations(self) -> tuple[str, ...]:
        """The columns that may hold a whole conversation; only the one that was named, if one was."""
        return (self.messages,) if "messages" in self.renamed else CONVERSATIONS

    @property
    def judged(self) -> tuple[str, ...]:
        """The columns that may hold a response; a row needs one of them."""
        return (self.response, *self.conversations, "choices", "response_token_ids")

    @property
    def read(self) -> set[str]:
        """The columns of a table that a pair may be read from: of a path, its first name too."""
        named = {*asdict(self).values(), "split", *CONVERSATIONS, *LOGGED, *INPUTS, *TOKENS}
        return named | {column.partition(".")[0] for column in named}


def listed(names: Iterable[str]) -> str:
    """The first few names of columns, in a line that can be printed."""
    shown = [name if name.isprintable() else ascii(name) for name in islice(names, _SHOWN + 1)]
    return ", ".join([*shown[:_SHOWN], *["..."] * (len(shown) > _SHOWN)]) or "none"


def find(row: Row, column: str) -> object:
    """What stands in a column; None where nothing does. A name that holds a dot goes before a path."""
    if column in row:
        return row[column]
    found: object = row
    for step in column.split("."):
        if isinstance(found, Mapping):
            found = found.get(step)
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found
