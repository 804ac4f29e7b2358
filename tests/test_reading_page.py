"""The page about what is read shows what is read."""

import re
from pathlib import Path

import pytest

from chat_templates import TEMPLATES, save
from scopewatch.reader.text.conversation import Conversations
from scopewatch.reader.text.traced import pieces_of
from scopewatch.reader.text.vocabulary import Vocabulary
from scopewatch.sources import Rendering
from scopewatch.types import Pair, Turn

PAGE = (Path(__file__).parents[1] / "docs" / "reading.md").read_text(encoding="utf-8")
SAID = Pair(
    "So why?",
    "It may rain.",
    (
        Turn("system", "Be brief."),
        Turn("user", "Hello"),
        Turn("assistant", "<think>\nGreet.\n</think>\n\nHi!"),
    ),
)


def shown(name: str, directory: Path) -> str:
    """What stands before the answer, its lines as in the text, a caller's own words between guillemets."""
    vocabulary = Vocabulary(save(name, directory))
    head = Conversations(vocabulary, Rendering()).render(SAID)
    text, done = "", 0
    for piece in pieces_of(head.text):
        if piece.source >= 0:
            text += f"{head.text[done : piece.start]}«{head.text[piece.start : piece.end]}»"
            done = piece.end
    text += head.text[done:]
    for token in vocabulary.added_tokens:
        if vocabulary.control_tokens.fullmatch(token):
            text = text.replace(vocabulary.stand_in(token), token)
    return text


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_example_of_each_family_is_what_its_reader_reads(name: str, tmp_path: Path) -> None:
    """The page shows, family by family, the text that the program renders before the answer."""
    (example,) = re.findall(rf"### {re.escape(name)}\n\n```text\n(.*?)⟶", PAGE, re.DOTALL)

    assert shown(name, tmp_path) == example
