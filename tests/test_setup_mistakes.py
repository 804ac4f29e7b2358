"""Files that do not fit each other are found at start-up, not by a caller."""

import json
from pathlib import Path

import numpy as np
import pytest

from conftest import build_house, save_sae
from scopewatch.app.load import load
from scopewatch.config import Config
from scopewatch.errors import ReaderError, SaeError
from scopewatch.reader.text import Tokeniser
from scopewatch.sae.open import open_sae


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    """A tokenizer with more tokens than the model embeds is named, since on a GPU one of them would end the process."""
    house = build_house(tmp_path)
    tokenizer = house.reader / "tokenizer.json"
    document = json.loads(tokenizer.read_text())
    token = {"content": "<beyond>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    document["added_tokens"] += [
        token | {"id": 300 + extra, "content": f"<beyond{extra}>", "special": False} for extra in range(600)
    ]
    tokenizer.write_text(json.dumps(document))

    with pytest.raises(ReaderError, match=r"the tokenizer has \d+ tokens, the model embeds 512"):
        load(Config(watchlist=(house.watchlist,)))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param("{% for message in messages %}{{ message", "chat template, line 1", id="syntax"),
        pytest.param("{{ messages[0]['content'] + 1 }}", "chat template: TypeError", id="type"),
    ],
)
def test_a_template_that_cannot_run_is_the_operators_mistake(tmp_path: Path, template: str, message: str) -> None:
    """A chat template that fails on a plain question and answer is refused when the reader is loaded."""
    house = build_house(tmp_path)
    (house.reader / "chat_template.jinja").write_text(template)

    with pytest.raises(ReaderError, match=message):
        Tokeniser(house.reader, max_tokens=64)


def test_a_negative_threshold_is_refused(tmp_path: Path) -> None:
    """An SAE with a negative threshold is none of this release."""
    threshold = np.full(64, 0.1, np.float32)
    threshold[5] = -0.1
    file = save_sae(tmp_path, 1, threshold=threshold)

    with pytest.raises(SaeError, match="threshold is negative"):
        open_sae(file)
