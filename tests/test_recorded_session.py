"""The program does for its users what it did when `tests/data/recorded_session.json` was recorded.

A session with the whole program (a server called over gRPC, its metrics page, every command and typical mistakes) is
played once and compared, part by part, with the record. It knows nothing of the inside, so these tests say whether a
rebuild changed anything that users meet.

Where a test fails, the message names each place in the record with what was recorded and what is played now. After a
change that users are *meant* to see, record anew and read the difference before it is committed:

    python tests/recorded_session.py > tests/data/recorded_session.json
"""

import json
from pathlib import Path

import pytest

from recorded_session import SECTIONS, Document, differences, play

RECORD = Path(__file__).parent / "data" / "recorded_session.json"
_MOST_SHOWN = 40


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    """The session, played with the program as it is now."""
    return play(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="session")
def recorded() -> dict[str, Document]:
    return json.loads(RECORD.read_text(encoding="utf-8"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("section", SECTIONS)
def test_users_meet_what_they_met(section: str, recorded: dict[str, Document], played: dict[str, Document]) -> None:
    """Every reply, message, exit code, metric and help text of this part is what it was."""
    # Through JSON, as the record went: a tuple becomes a list.
    found = differences(recorded[section], json.loads(json.dumps(played[section])), section)

    more = [f"and {len(found) - _MOST_SHOWN} more"] if len(found) > _MOST_SHOWN else []
    assert not found, "\n".join([f"{len(found)} differences from the record:", *found[:_MOST_SHOWN], *more])


def test_differences_are_told() -> None:
    """The comparison lets pass what another CPU makes of a number, and names the place of anything else."""
    before = {"a": [1, 2.5, "score 7.12, p=0.500 at 127.0.0.1"], "gone": None, "flag": True}

    assert not differences(before, {**before, "a": [1, 2.50001, "score  7.13, p=0.501 at 127.0.0.1"]})
    assert [
        "x/gone: gone",
        "x/new: new, 1",
        "x/a/0: recorded 1, played 2",
        "x/a/1: recorded 2.5, played 2.51",
        'x/a/2: recorded "score 7.12, p=0.500 at 127.0.0.1", played "score 7.12, p=0.500 at 127.0.0.2"',
        "x/flag: recorded true, played 1",
    ] == differences(before, {"a": [2, 2.51, "score 7.12, p=0.500 at 127.0.0.2"], "flag": 1, "new": 1}, "x")
