"""The watchlist file: what is accepted, and that every mistake is named at its line."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from conftest import engine_identity, watchlist_document
from scopewatch.engine.choices import choices
from scopewatch.errors import WatchlistError
from scopewatch.identity import ENTROPY, LOGPROB, EngineIdentity, FeatureKey, Relation
from scopewatch.sources import SaeSource
from scopewatch.types import Segment
from scopewatch.watch import watchlist as watchlist_module
from scopewatch.watch.indicators import PROBE
from scopewatch.watch.poolings import Pooling
from scopewatch.watch.watchlist import MAX_FILE_BYTES, Watchlist, load_watchlist

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes | dict[str, Any], name: str = "watchlist.yaml") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = yaml.safe_dump(content, sort_keys=False)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


def mistakes(file: Path) -> list[str]:
    """What the loader says of a file, without the file's own name."""
    with pytest.raises(WatchlistError) as caught:
        load_watchlist(file)
    return [line.removeprefix(f"{file}:") for line in str(caught.value).splitlines()]


FULL = """\
version: 1
name: clinic.v2
reader: {id: google/gemma-2-2b, revision: abc123, relation: same_model}
saes:
  res: {path: sae/layer_2/params.npz}
  late: {path: sae/late.npz, hookpoint: layers.20.resid_post}
indicators:
  - name: speculation
    label: Hedged or guessed claims
    segment: prompt
    pooling: mean
    severity: high
    features:
      - {feature: res/1234, weight: 0.8, label: "may, might"}
      - {feature: res/77, weight: -0.3, pooling: {kind: rolling_mean_max, window: 8}}
      - {feature: late/0, pooling: {kind: k_of_n, k: 2, n: 5}}
    bias: -1.5
    threshold: 0.4
    probability: {slope: 2, intercept: -1}
    card:
      date: 2026-11-01
      calibrated_on: dev.jsonl
      n: 400
      measurements:
        - {data: test.jsonl, n: 200, n_positive: 90, auroc: 0.91, fpr: 0.05, baselines: {keywords: 0.7}}
  - name: bare
    features:
      - {feature: res/77}
    threshold: 0
    card: uncalibrated
"""


def test_a_full_file_is_read_as_it_is_written(write: Write) -> None:
    """Every key of a valid file arrives in the watchlist, with the documented defaults for those left out."""
    file = write(FULL)

    watchlist = load_watchlist(file)
    speculation, bare = watchlist.indicators

    assert watchlist.name == "clinic.v2"
    assert watchlist.digest == hashlib.sha256(FULL.encode()).hexdigest()
    assert (watchlist.reader.id, watchlist.reader.revision) == ("google/gemma-2-2b", "abc123")
    assert watchlist.reader.relation == Relation.SAME_MODEL
    assert watchlist.saes["late"].hookpoint == "layers.20.resid_post"
    assert (speculation.read_segment, speculation.severity, speculation.bias) == (Segment.PROMPT, "high", -1.5)
    assert [str(term.pooling or speculation.pooling) for term in speculation.features] == [
        "mean",
        "rolling_mean_max(window=8)",
        "k_of_n(k=2, n=5)",
    ]
    assert speculation.card is not None
    assert (speculation.card.date, speculation.card.measurements[0].auroc) == ("2026-11-01", 0.91)
    assert speculation.calibrated is True
    assert (bare.read_segment, bare.severity, bare.bias) == (Segment.RESPONSE, "medium", 0.0)
    assert bare.pooling == Pooling(kind="max")
    assert bare.features[0].weight == 1.0
    assert bare.calibrated is False


def test_the_documented_example_is_a_watchlist(write: Write) -> None:
    """The example in the module's docstring loads, and holds an indicator of every kind."""
    _, example, *_ = str(watchlist_module.__doc__).split("\n\n")
    watchlist = load_watchlist(write(dedent(example)))

    kinds = ["features", "probe", "combination", "obfuscation", "words"]
    assert kinds == [indicator.kind for indicator in watchlist.indicators]
    assert watchlist.reads_head


def test_every_watched_feature_is_listed_once_where_it_first_stands(write: Write) -> None:
    """A feature that several indicators watch is computed once, and a complaint about it names its first place."""
    watchlist = load_watchlist(write(FULL))
    assert watchlist.features == {
        FeatureKey("res", 1234): ("indicators", 0, "features", 0, "feature"),
        FeatureKey("res", 77): ("indicators", 0, "features", 1, "feature"),
        FeatureKey("late", 0): ("indicators", 0, "features", 2, "feature"),
    }


BAD = """\
version: 2
name: 9lives
reader: {path: reader, id: google/gemma-2-2b}
saes:
  res: {path: sae.npz, norm_factor: -1, hookpoint: layers.2.resid_post, colour: red}
  bad name: {path: sae.npz}
indicators:
  - name: twin
    segment: answer
    features:
      - {feature: res/01}
      - {feature: nosuch/3, weight: 0}
      - {feature: res/5, weight: .nan}
      - {feature: res/6, pooling: median}
      - {feature: res/7, pooling: {kind: k_of_n}}
      - {feature: res/8, pooling: {kind: max, window: 3}}
      - {feature: res/9, pooling: {kind: k_of_n, k: 5, n: 3}}
      - {feature: res/9, pooling: {kind: rolling_mean_max, window: 0}}
    threshold: high
    threshold: 1
  - name: twin
    features: []
    probability: {slope: -1, intercept: 0}
    card:
      date: 2026-01-01
      calibrated_on: mine.jsonl
      measurements:
        - {data: theirs.jsonl, n: 10, n_positive: 5, auroc: 1.5}
  - name: three
    features:
      - {feature: res/1, weight: 1}
      - {feature: res/1, weight: 2, pooling: max}
    threshold: 0
  - name: four
    features:
      - {feature: res/1}
      - {weight: 2}
    bias: .inf
    treshold: 1
    severity: fatal
"""
BAD_LINES = [
    "1: version: Input should be 1",
    "2: name: String should match pattern",
    "3: reader: give one of path (a directory), id (a hub id) and known (a name that `scopewatch reader list` shows)",
    "5: saes.res.colour: no such key here",
    "5: saes.res.norm_factor: Input should be greater than 0",
    "6: saes.bad name: String should match pattern",
    "9: indicators[0].segment: Input should be 'prompt', 'response' or 'history'",
    "11: indicators[0].features[0].feature: a feature is written sae/index, for instance res/1234 or gemma-2-2b/20-gemmascope-res-16k/1234, not 'res/01'",
    "12: indicators[0].features[1].feature: there is no SAE 'nosuch' under saes (there: bad name, res)",
    "12: indicators[0].features[1].weight: a weight of 0 watches nothing",
    "13: indicators[0].features[2].weight: Input should be a finite number",
    "14: indicators[0].features[3].pooling.kind: Input should be 'max', 'mean'",
    "15: indicators[0].features[4].pooling: pooling k_of_n needs k",
    "16: indicators[0].features[5].pooling: pooling max takes no window",
    "17: indicators[0].features[6].pooling: k_of_n asks for k=5 of only n=3 tokens",
    "18: indicators[0].features[7].pooling.window: Input should be greater than or equal to 1",
    "20: indicators[0].threshold: this key stands twice",
    "21: indicators[1].name: another indicator is already named 'twin'",
    "21: indicators[1].threshold: missing",
    "22: indicators[1].features: needs at least one entry",
    "23: indicators[1].probability.slope: Input should be greater than 0",
    "24: indicators[1].card.n: missing",
    "28: indicators[1].card.measurements[0].auroc: Input should be less than or equal to 1",
    "30: indicators[2].features: feature res/1 stands twice with pooling max; add the weights",
    "34: indicators[3].threshold: missing",
    "37: indicators[3].features[1].feature: missing",
    "38: indicators[3].bias: Input should be a finite number",
    "39: indicators[3].treshold: no such key here",
    "40: indicators[3].severity: Input should be 'info', 'low', 'medium' or 'high'",
]


def test_every_mistake_is_named_at_its_line_in_one_go(write: Write) -> None:
    """A file with many different mistakes is answered with all of them, each at its own line, in order."""
    said = mistakes(write(BAD))
    starts = [line[: len(start)] for line, start in zip(said, BAD_LINES, strict=False)]
    assert starts == BAD_LINES
    assert len(said) == len(BAD_LINES)


@pytest.mark.parametrize(
    ("content", "start"),
    [
        pytest.param("version: 1\nname: [a, b\nreader: x\n", "3: not valid YAML: ", id="syntax"),
        pytest.param("version: 1\n\tname: x\n", "2: not valid YAML: ", id="tab"),
        pytest.param("version: 1\nname: *nowhere\n", "2: not valid YAML: found undefined alias", id="alias"),
        pytest.param("version: 1\n---\nversion: 1\n", "2: not valid YAML: ", id="two documents"),
        pytest.param('version: 1\nname: "a\x07b"\n', "2: not valid YAML: control character", id="control character"),
        pytest.param("version: 1\nname: x\nno: 1\n", "3: not valid YAML: a key that is not text", id="key is a word"),
        pytest.param("version: 1\n? [a]\n: 1\n", "2: not valid YAML: a key that is not text", id="key is a list"),
        pytest.param("", "1: the file is empty", id="empty"),
        pytest.param("# nothing\n", "1: the file is empty", id="only a comment"),
        pytest.param("- version: 1\n", "1: a watchlist is a mapping", id="list"),
        pytest.param("null\n", "1: a watchlist is a mapping", id="null"),
        pytest.param(b"version: 1\nname: \xff\xfe\n", " not UTF-8 at byte 17", id="not utf-8"),
    ],
)
def test_what_is_no_watchlist_at_all_is_refused_at_its_line(write: Write, content: str | bytes, start: str) -> None:
    """A file that cannot be read as YAML text is refused with one line that says where."""
    (said,) = mistakes(write(content))
    assert said[: len(start)] == start


@pytest.mark.parametrize(
    ("tagged", "tag"),
    [
        ("!!python/object/apply:os.system ['touch {mark}']", "tag:yaml.org,2002:python/object/apply:os.system"),
        ("!!python/object/new:os.system ['touch {mark}']", "tag:yaml.org,2002:python/object/new:os.system"),
        ("!!python/name:os.system", "tag:yaml.org,2002:python/name:os.system"),
        ("!!python/module:os", "tag:yaml.org,2002:python/module:os"),
        ("!secret x", "!secret"),
        ("!!str x", "tag:yaml.org,2002:str"),
        ("!!map {{}}", "tag:yaml.org,2002:map"),
        ("! x", "!"),
    ],
)
def test_tags_are_refused(write: Write, tmp_path: Path, tagged: str, tag: str) -> None:
    """A YAML tag cannot run or import anything, nor make a number of a text: it is refused at its line."""
    mark = tmp_path / "mark"
    (said,) = mistakes(write("version: 1\nname: " + tagged.format(mark=mark)))
    assert said == f"2: not valid YAML: the tag {tag}; write the value without a tag"
    assert mark.exists() is False


def with_value(place: str, written: str) -> str:
    """The full file with something else in one place."""
    key, _, _ = place.partition(": ")
    assert FULL.count(place) == 1
    return FULL.replace(place, f"{key}: {written}")


AMBIGUOUS = [
    *(
        "yes",
        "no",
        "on",
        "off",
        "Yes",
        "NO",
        "oN",
        "1:30",
        "-1:30:59.5",
        "0777",
        "0o777",
        "08",
        "-012",
        "0b11",
        "-0x1F",
    ),
    *("1_000", "1_0.5", "1e3", "1.5e3", "-1E+3", ".5e1", "=", "<<"),
]
PLACES = ["threshold: 0.4", "label: Hedged or guessed claims", "window: 8", "pooling: mean", "date: 2026-11-01"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("written", AMBIGUOUS)
def test_what_two_versions_of_yaml_read_differently_is_refused(write: Write, written: str, place: str) -> None:
    """`yes`, 0777 and 1e3 are one thing for YAML 1.1 and another for 1.2, so that none of them is taken for either."""
    (said,) = mistakes(write(with_value(place, written)))
    line = FULL[: FULL.index(place)].count("\n") + 1
    assert said.startswith(f"{line}: indicators[0].")
    assert f": {written} is read differently by YAML 1.1 and 1.2: " in said


@pytest.mark.parametrize("written", AMBIGUOUS)
def test_quotes_make_text_of_anything(write: Write, written: str) -> None:
    """What is refused without quotes is text with them."""
    watchlist = load_watchlist(write(with_value("label: Hedged or guessed claims", f"'{written}'")))
    assert watchlist.indicators[0].label == written


@pytest.mark.parametrize(
    ("written", "number"),
    [
        *(("0.5", 0.5), (".5", 0.5), ("+.5", 0.5), ("-.5", -0.5), ("5.", 5), ("+1", 1), ("-0", 0), ("0x1F", 31)),
        *(("1.0e-3", 0.001), ("1.e+3", 1000), ("1.5E+3", 1500), ("01.5", 1.5), ("9007199254740992", 2.0**53)),
        ("0.1000000000000000055511151231257827", 0.1),
    ],
)
def test_numbers_are_what_is_written(write: Write, written: str, number: float) -> None:
    """What every version of YAML reads as a number is that number."""
    assert load_watchlist(write(with_value("threshold: 0.4", written))).indicators[0].threshold == number


WRONG = [
    *(("threshold: 0.4", wrong, "a number: write it without quotes") for wrong in ("'1'", '"1.5"', "'1e3'")),
    *(("threshold: 0.4", wrong, "a number") for wrong in ("true", "high", "y", "2026-11-01", "[1]", "{a: 1}")),
    *(("threshold: 0.4", wrong, "a finite number") for wrong in (".inf", "-.INF", ".nan", "1.0e+999")),
    *(("window: 8", wrong, "a whole number") for wrong in ("8.0", "true", "eight")),
    *(("window: 8", wrong, "a whole number: write it without quotes") for wrong in ("'8'", '"8.0"')),
    *(("label: Hedged or guessed claims", wrong, "text: quote it if it is meant") for wrong in ("1", "1.5", "true")),
    ("label: Hedged or guessed claims", "[a]", "text: quote it if it is meant"),
    ("name: clinic.v2", "20", "text: quote it if it is meant"),
    ("revision: abc123", "1234567", "text: quote it if it is meant"),
    ("date: 2026-11-01", "20261101", "text: quote it if it is meant"),
    *(("version: 1", wrong, "1") for wrong in ("1.0", "true", "'1'")),
    ("n: 400", "400.0", "a whole number"),
    ("auroc: 0.91", "'0.91'", "a number: write it without quotes"),
    ("auroc: 0.91", "false", "a number"),
    ("baselines: {keywords: 0.7}", "{keywords: '0.7'}", "a number: write it without quotes"),
    ("slope: 2", "'2'", "a number: write it without quotes"),
    ("relation: same_model", "1", "'same_model' or 'reader_model'"),
    ("id: google/gemma-2-2b", "google/gemma-2-2b, fold_system: 'true'", "true or false: write it without quotes"),
    ("id: google/gemma-2-2b", "google/gemma-2-2b, fold_system: 1", "true or false"),
    ("path: sae/layer_2/params.npz", "a.npz, k: '5'", "a whole number: write it without quotes"),
    ("path: sae/layer_2/params.npz", "a.npz, norm_factor: true", "a number"),
]


@pytest.mark.parametrize(("place", "written", "wanted"), WRONG)
def test_no_type_is_taken_for_another(write: Write, place: str, written: str, wanted: str) -> None:
    """A text is no number, true is no 1, 8.0 counts nothing and 20 is no name: each is refused at its line."""
    (said,) = mistakes(write(with_value(place, written)))
    line = FULL[: FULL.index(place)].count("\n") + 1
    assert said.startswith(f"{line}: ")
    assert said.endswith(f": Input should be {wanted}")


@pytest.mark.parametrize("written", ["null", "Null", "~", ""])
@pytest.mark.parametrize(
    "place", ["threshold: 0.4", "label: Hedged or guessed claims", "bias: -1.5", "card: uncalibrated"]
)
def test_a_key_without_a_value_is_refused(write: Write, place: str, written: str) -> None:
    """A key that was left without a value gets no silent default, even where it could be left out."""
    (said,) = mistakes(write(with_value(place, written)))
    assert said.endswith(": there is no value here; write one, or leave the key out")


@pytest.mark.parametrize("written", ["9007199254740993", "-9007199254740993", "9" * 5000])
def test_a_number_that_would_not_be_kept_is_refused(write: Write, written: str) -> None:
    """A whole number that becomes another one as a float is not read."""
    (said,) = mistakes(write(with_value("threshold: 0.4", written)))
    assert "a whole number beyond 2^53 is not kept exactly" in said


def test_what_a_template_is_given_may_be_null_and_nothing_ambiguous(write: Write) -> None:
    """The arguments of a chat template are JSON, where null is a value; they are read as strictly as the rest."""
    given = "id: google/gemma-2-2b, arguments: {a: null, b: [~, 1.5, true]}, tools: [{default: null}]"
    reader = load_watchlist(write(FULL.replace("id: google/gemma-2-2b", given))).reader
    assert (reader.arguments, reader.tools) == ({"a": None, "b": [None, 1.5, True]}, ({"default": None},))
    (said,) = mistakes(write(FULL.replace("id: google/gemma-2-2b", given.replace("1.5", "1e3"))))
    assert said.startswith("3: reader.arguments.b[1]: 1e3 is read differently")
    (said,) = mistakes(write(FULL.replace("id: google/gemma-2-2b", given.replace("1.5", "1.0e+999"))))
    assert said == "3: reader.arguments.b[1]: Input should be a finite number"


@pytest.mark.parametrize("date", ["2026-11-01", "2026-1-1", "2026-11-01T10:00:00Z", "2026-02-30", "'2026-11-01'"])
def test_dates_stay_as_they_are_written(write: Write, date: str) -> None:
    """A date is text, with and without quotes, in a card and for the reader."""
    (first, _) = load_watchlist(write(with_value("date: 2026-11-01", date))).indicators
    assert first.card is not None
    assert first.card.date == date.strip("'")
    reader = load_watchlist(write(FULL.replace("reader: {", "reader: {date: 2026-11-01, "))).reader
    assert reader.date == "2026-11-01"


@pytest.mark.parametrize("written", ['"\\ud800"', '"a\\udfff"'])
@pytest.mark.parametrize("key", ["label", '"label\\ud800"'])
def test_half_a_character_is_refused(write: Write, written: str, key: str) -> None:
    """An escape that is no character is refused at its line, not shown to anybody."""
    (said,) = mistakes(write(FULL.replace("label: Hedged or guessed claims", f"{key}: {written}")))
    assert said.startswith("9: not valid YAML: half of a character")


def test_a_byte_order_mark_is_no_part_of_a_file(write: Write) -> None:
    """A file that an editor began with a byte-order mark is read like any other."""
    assert load_watchlist(write("\ufeff" + FULL)).name == "clinic.v2"


def laughs(levels: int, first: str = "[x, x]", level: str = "[{}]") -> str:
    """Anchors of which each holds the one before ten times."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {level.format(', '.join([f'*a{i - 1}'] * 10))}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(laughs(30), "anchors that contain themselves or multiply without end", id="billion laughs"),
        pytest.param(laughs(30, "{k: 1}", "{{<<: [{}]}}"), "a key that is not text", id="merge keys"),
        pytest.param("? {" + laughs(30).replace("\n", ", ") + "}\n: 1\n", "a key that is not text", id="laughing key"),
        pytest.param("a: &a [*a]\n", "anchors that contain themselves", id="list in itself"),
        pytest.param("a: &a\n  b: *a\n", "anchors that contain themselves", id="mapping in itself"),
        pytest.param("[" * 600, "maximum recursion depth exceeded", id="deep nesting"),
    ],
)
def test_yaml_bombs_are_refused(write: Write, content: str, problem: str) -> None:
    """A small file that unfolds into a huge or endless one is refused before it is unfolded."""
    (said,) = mistakes(write(content))
    assert said.split("not valid YAML: ")[1][: len(problem)] == problem


def test_anchors_of_a_sane_file_work(write: Write) -> None:
    """Anchors are allowed: what is shared between indicators need not be written twice."""
    text = FULL.replace("features:\n      - {feature: res/77}", "features: &shared\n      - {feature: res/77}")
    text += "  - {name: again, features: *shared, threshold: 1}\n"
    watchlist = load_watchlist(write(text))
    assert watchlist.indicators[2].features == watchlist.indicators[1].features


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        pytest.param(lambda _: None, "cannot be read: No such file or directory", id="missing"),
        pytest.param(lambda file: file.mkdir(), "cannot be read: Is a directory", id="directory"),
        pytest.param(
            lambda file: file.write_bytes(b" " * (MAX_FILE_BYTES + 1)), "larger than 16777216 bytes", id="huge"
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], object], problem: str) -> None:
    """A missing, unreadable or huge file is a setup error that names the file."""
    file = tmp_path / "watchlist.yaml"
    make(file)
    with pytest.raises(WatchlistError) as caught:
        load_watchlist(file)
    assert str(caught.value)[: len(f"{file}: {problem}")] == f"{file}: {problem}"


KINDS = """\
version: 1
name: kinds
reader: {path: reader}
saes:
  res: {path: sae.npz}
  hedging: {path: hedging.safetensors}
indicators:
  - {name: hedges, features: [{feature: res/1}], threshold: 1}
  - {name: dense, kind: probe, pooling: mean, features: [{feature: hedging/0}, {feature: hedging/1}], threshold: 1}
  - name: both
    kind: combination
    segment: prompt
    combines:
      - {indicator: later, weight: -2}
      - {signal: mean_entropy, weight: 0.5}
    bias: 3
    threshold: 1
  - {name: later, features: [{feature: res/1}], threshold: 1}
"""


def test_every_kind_of_indicator_is_read(write: Write) -> None:
    """Features, probes and combinations arrive as written; only features and probes are watched in SAEs."""
    watchlist = load_watchlist(write(KINDS))
    both = watchlist.indicators[2]

    assert ["features", "probe", "combination", "features"] == [indicator.kind for indicator in watchlist.indicators]
    assert [("later", -2.0, None), ("mean_entropy", 0.5, ENTROPY)] == [(p.name, p.weight, p.key) for p in both.combines]
    assert (Segment.PROMPT, (), 3.0) == (both.read_segment, both.features, both.bias)
    assert {"res/1", "hedging/0", "hedging/1"} == set(map(str, watchlist.features))


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("{signal: mean_logprob, weight: 1}", LOGPROB),
        ("{signal: mean_entropy, weight: 1}", ENTROPY),
        ("{signal: lowest_sentence_logprob, weight: 1}", LOGPROB),
        ("{signal: highest_sentence_entropy, weight: 1}", ENTROPY),
        ("{signal: surprising_assertion, weight: 1}", LOGPROB),
        ("{indicator: hedges, weight: 1}", None),
    ],
)
def test_only_a_signal_makes_the_reader_run_whole(write: Write, part: str, key: FeatureKey | None) -> None:
    """The reader's head is asked for where a combination has a part of its predictions, and not otherwise."""
    watchlist = load_watchlist(write(KINDS.replace("{signal: mean_entropy, weight: 0.5}", part)))

    assert key == watchlist.indicators[2].combines[1].key
    assert (key is not None) == watchlist.reads_head


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param(
            "    combines:\n      - {indicator: later, weight: -2}\n      - {signal: mean_entropy, weight: 0.5}\n",
            "",
            ["10: indicators[2].combines: needs at least one entry"],
            id="combination without parts",
        ),
        pytest.param(
            "    combines:\n      - {indicator: later, weight: -2}\n      - {signal: mean_entropy, weight: 0.5}\n",
            "    features:\n      - {feature: res/1}\n",
            [
                "10: indicators[2].combines: needs at least one entry",
                "13: indicators[2].features: an indicator of kind combination has combines instead",
            ],
            id="combination of features",
        ),
        pytest.param(
            "{name: hedges, features: [{feature: res/1}], threshold: 1}",
            "{name: hedges, combines: [{indicator: later, weight: 1}], threshold: 1}",
            [
                "8: indicators[0].combines: an indicator of kind features has features instead",
                "8: indicators[0].features: needs at least one entry",
            ],
            id="features with parts",
        ),
        pytest.param(
            "kind: probe, pooling: mean, features: [{feature: hedging/0}, {feature: hedging/1}]",
            "kind: probe",
            ["9: indicators[1].features: needs at least one entry"],
            id="probe without directions",
        ),
        pytest.param(
            "    segment: prompt\n",
            "    pooling: mean\n",
            ["12: indicators[2].pooling: a combination pools nothing; its parts say how they are pooled"],
            id="combination with a pooling",
        ),
        pytest.param(
            "{indicator: later,",
            "{indicator: latter,",
            [
                "14: indicators[2].combines[0].indicator: there is no indicator of features, a probe, obfuscation or words named 'latter' (there: dense, hedges, later)"
            ],
            id="unknown part",
        ),
        pytest.param(
            "{indicator: later,",
            "{indicator: both,",
            [
                "14: indicators[2].combines[0].indicator: there is no indicator of features, a probe, obfuscation or words named 'both' (there: dense, hedges, later)"
            ],
            id="combination of itself",
        ),
        pytest.param(
            "  - {name: later, features: [{feature: res/1}], threshold: 1}",
            "  - {name: later, kind: combination, combines: [{signal: mean_logprob, weight: 1}], threshold: 1}",
            [
                "14: indicators[2].combines[0].indicator: there is no indicator of features, a probe, obfuscation or words named 'later' (there: dense, hedges)"
            ],
            id="combination of a combination",
        ),
        pytest.param(
            "{signal: mean_entropy,",
            "{indicator: hedges, signal: mean_entropy,",
            ["15: indicators[2].combines[1]: give either indicator or signal"],
            id="part that is two things",
        ),
        pytest.param(
            "{signal: mean_entropy, weight: 0.5}",
            "{weight: 0.5}",
            ["15: indicators[2].combines[1]: give either indicator or signal"],
            id="part that is nothing",
        ),
        pytest.param(
            "signal: mean_entropy",
            "signal: entropy",
            [
                (
                    "15: indicators[2].combines[1].signal: Input should be 'mean_logprob', 'mean_entropy', "
                    "'lowest_sentence_logprob', 'highest_sentence_entropy' or 'surprising_assertion'"
                )
            ],
            id="unknown signal",
        ),
        pytest.param(
            "{signal: mean_entropy, weight: 0.5}",
            "{signal: mean_entropy}",
            ["15: indicators[2].combines[1].weight: missing"],
            id="part without a weight",
        ),
        pytest.param(
            "{signal: mean_entropy, weight: 0.5}",
            "{signal: mean_entropy, weight: 0}",
            ["15: indicators[2].combines[1].weight: a weight of 0 watches nothing; remove the entry"],
            id="part of no weight",
        ),
        pytest.param(
            "{signal: mean_entropy, weight: 0.5}",
            "{indicator: later, weight: 0.5}",
            ["13: indicators[2].combines: later stands twice; add the weights"],
            id="part that stands twice",
        ),
        pytest.param(
            "{signal: mean_entropy, weight: 0.5}",
            "{signal: mean_entropy, weight: 0.5}\n      - {signal: mean_entropy, weight: 0.5}",
            ["13: indicators[2].combines: mean_entropy stands twice; add the weights"],
            id="signal that stands twice",
        ),
        pytest.param(
            "{feature: hedging/0}",
            "{feature: hedging/0, pooling: {kind: k_of_n, k: 2}}",
            [
                "9: indicators[1].features: hedging/0: a probe is pooled by max, mean, sum, last, sentence_end, not by k_of_n(k=2)"
            ],
            id="probe that is to fire twice",
        ),
        pytest.param(
            "pooling: mean, features",
            "pooling: fraction_active, features",
            [
                "9: indicators[1].features: hedging/0: a probe is pooled by max, mean, sum, last, sentence_end, not by fraction_active"
            ],
            id="probes of which a share is to fire",
        ),
        pytest.param(
            "kind: probe, pooling: mean",
            "kind: prob, pooling: nean",
            [
                "9: indicators[1].kind: Input should be 'features', 'probe', 'combination', 'obfuscation' or 'words'",
                "9: indicators[1].pooling.kind: Input should be 'max', 'mean', 'sum', 'fraction_active', 'rolling_mean_max', 'k_of_n', 'last' or 'sentence_end'",
            ],
            id="unknown kind",
        ),
    ],
)
def test_an_indicator_is_made_of_what_its_kind_asks_for(write: Write, old: str, new: str, said: list[str]) -> None:
    """Each way to mix up the kinds is told once, at the line of what is wrong or of what lacks it."""
    assert KINDS.count(old) == 1
    assert said == mistakes(write(KINDS.replace(old, new)))


def running(probes: str) -> EngineIdentity:
    """An engine over SAEs `res` and `hedging`, of which the named ones are files of probes."""
    identity = engine_identity(res=(1,), hedging=(0, 1))
    saes = [replace(sae, architecture=PROBE) if sae.name in probes.split() else sae for sae in identity.saes]
    return replace(identity, saes=tuple(saes))


@pytest.mark.parametrize(
    ("probes", "problem"),
    [
        (
            "",
            "9: indicators[1].features[0]: hedging is not a file of probes, and indicator dense is of kind probe",
        ),
        (
            "res hedging",
            "8: indicators[0].features[0]: res is a file of probes, and indicator hedges is of kind features",
        ),
    ],
)
def test_a_kind_that_the_files_belie_is_refused(write: Write, probes: str, problem: str) -> None:
    """What calls features a probe's, or a probe's directions features, is refused at its line once the files are read."""
    file = write(KINDS)
    with pytest.raises(WatchlistError) as caught:
        load_watchlist(file).check_kinds(running(probes))
    assert f"{file}:{problem}" == str(caught.value)


def test_kinds_that_fit_the_files_are_accepted(write: Write) -> None:
    """A watchlist whose probes are probes and whose features are an SAE's has nothing said of it."""
    load_watchlist(write(KINDS)).check_kinds(running("hedging"))


def with_feature(**keys: object) -> dict[str, Any]:
    document = watchlist_document()
    document["indicators"] = [
        {"name": "one", "features": [{"feature": "mid/3"} | keys], "threshold": 1.0},
    ]
    return document


@pytest.mark.parametrize(
    "feature",
    ["mid", "mid/", "/3", "mid/-1", "mid/1.0", "mid/3 ", "mid/3\n", "mid/0x3", "mid/03", "a/mid/3/4", "mid/٣", ""],
)
def test_a_malformed_feature_is_refused(write: Write, feature: str) -> None:
    """A feature is exactly `sae/index`, the index without sign, zeros in front, or other digits than 0 to 9."""
    (said,) = mistakes(write(with_feature(feature=feature)))
    assert said.split(": ")[1:3] == [
        "indicators[0].features[0].feature",
        "a feature is written sae/index, for instance res/1234 or gemma-2-2b/20-gemmascope-res-16k/1234, not "
        + repr(feature),
    ]


SOURCE = "gemma-2-2b/20-gemmascope-res-16k"


def test_a_neuronpedia_feature_needs_no_entry_under_saes(write: Write) -> None:
    """A feature named as Neuronpedia names it brings its SAE along; an entry of that name says where the files are."""
    document = with_feature(feature=f"{SOURCE}/1234")
    implied = load_watchlist(write(document))
    named = load_watchlist(write(document | {"saes": {SOURCE: {"path": "sae.npz"}}}))

    assert {FeatureKey(SOURCE, 1234)} == set(implied.features)
    assert SaeSource(neuronpedia=SOURCE) == implied.saes[SOURCE]
    assert SaeSource(path="sae.npz") == named.saes[SOURCE]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({}, "give one of path, id"),
        ({"path": "a", "id": "o/r/p"}, "give one of path, id"),
        ({"release": "r"}, "give one of path, id"),
        ({"neuronpedia": SOURCE, "release": "r"}, "a release needs the id of an SAE in it"),
        ({"path": "a", "revision": "main"}, "a revision belongs to a hub id"),
    ],
    ids=str,
)
def test_an_sae_has_one_source(write: Write, source: dict[str, str], problem: str) -> None:
    """An SAE that is nowhere, or in two places, is refused at its line."""
    (said,) = mistakes(write(watchlist_document() | {"saes": {"mid": source, "late": {"path": "b"}}}))

    assert said.split(": ", 2)[1] == "saes.mid"
    assert problem in said


@pytest.mark.parametrize(
    ("pooling", "problem"),
    [
        ({"kind": "mean", "k": 1}, "pooling mean takes no k"),
        ({"kind": "sum", "n": 2, "k": 1}, "pooling sum takes no k, n"),
        ({"kind": "fraction_active", "window": 2}, "pooling fraction_active takes no window"),
        ({"kind": "rolling_mean_max"}, "pooling rolling_mean_max needs window"),
        ({"kind": "rolling_mean_max", "window": 3, "k": 1}, "pooling rolling_mean_max takes no k"),
        ({"kind": "k_of_n", "n": 3}, "pooling k_of_n needs k"),
        ({"kind": "k_of_n", "k": 2, "n": 3, "window": 2}, "pooling k_of_n takes no window"),
        ({"kind": "k_of_n", "k": 3, "n": 2}, "k_of_n asks for k=3 of only n=2 tokens"),
    ],
    ids=str,
)
def test_a_pooling_takes_exactly_its_own_arguments(write: Write, pooling: dict[str, object], problem: str) -> None:
    """An argument that is missing, or that another pooling takes, is refused and named."""
    (said,) = mistakes(write(with_feature(pooling=pooling)))
    assert said.split(": ", 2)[1:] == ["indicators[0].features[0].pooling", problem]


@pytest.mark.parametrize("weight", [0, -0.0, float("nan"), float("inf"), -float("inf"), "heavy", None])
def test_a_weight_is_a_finite_number_other_than_zero(write: Write, weight: object) -> None:
    """A weight that would do nothing or spoil the sum is refused."""
    (said,) = mistakes(write(with_feature(weight=weight)))
    assert said.split(": ")[1] == "indicators[0].features[0].weight"


@pytest.mark.parametrize("missing", ["date", "calibrated_on", "n", "measurements"])
def test_an_incomplete_card_is_refused(write: Write, missing: str) -> None:
    """A card counts as evidence only when it is whole; a missing part is named."""
    card: dict[str, object] = {
        "date": "2026-11-01",
        "calibrated_on": "dev.jsonl",
        "n": 4,
        "measurements": [{"data": "test.jsonl", "n": 2, "n_positive": 1, "auroc": 0.5}],
    }
    document = with_feature()
    document["indicators"][0]["card"] = {key: value for key, value in card.items() if key != missing}
    (said,) = mistakes(write(document))
    assert said.split(": ", 1)[1] == f"indicators[0].card.{missing}: missing"


@pytest.mark.parametrize("reader", [{}, {"path": "", "id": ""}, {"path": "reader", "id": "google/gemma-2-2b"}], ids=str)
def test_a_reader_comes_from_exactly_one_place(write: Write, reader: dict[str, str]) -> None:
    """Neither or both of path and id is refused."""
    (said,) = mistakes(write(watchlist_document(reader=reader)))
    assert (
        said.split(": ", 1)[1]
        == "reader: give one of path (a directory), id (a hub id) and known (a name that `scopewatch reader list` shows)"
    )


@pytest.mark.parametrize(
    ("location", "place"),
    [
        pytest.param(("saes", "late"), "6: saes.late", id="key"),
        pytest.param(
            ("indicators", 0, "features", 2, "feature"), "16: indicators[0].features[2].feature", id="feature"
        ),
        pytest.param(("indicators", 1), "26: indicators[1]", id="item"),
        pytest.param((), "1: the file", id="file"),
        pytest.param(("indicators", 1, "severity"), "26: indicators[1].severity", id="left out"),
    ],
)
def test_where_names_file_line_and_path(write: Write, location: tuple[str | int, ...], place: str) -> None:
    """What is found wrong after loading can still be told with the line it stands on."""
    file = write(FULL)
    assert load_watchlist(file).where(*location) == f"{file}:{place}"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("sae/params.npz", "{folder}/sae/params.npz"), ("/models/x.npz", "/models/x.npz"), ("~/x.npz", "{home}/x.npz")],
)
def test_relative_paths_count_from_the_watchlists_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str
) -> None:
    """A path means the same wherever the process was started."""
    monkeypatch.setenv("HOME", "/home/reader")
    monkeypatch.chdir("/")
    watchlist = load_watchlist(write(FULL, "lists/watchlist.yaml"))
    assert str(watchlist.resolve(path)) == expected.format(folder=tmp_path / "lists", home="/home/reader")


class TestSeveralWatchlists:
    """Watchlists of one process share its reader and its SAEs."""

    @pytest.fixture
    def load(self, write: Write) -> Callable[..., Watchlist]:
        def load(name: str, **changes: object) -> Watchlist:
            return load_watchlist(write(watchlist_document(name=name, **changes), f"{name}.yaml"))

        return load

    def test_their_features_are_united(self, load: Callable[..., Watchlist], tmp_path: Path) -> None:
        """One engine computes what any watchlist asks for, each SAE once."""
        more = [{"name": "delta", "features": [{"feature": "mid/5"}, {"feature": "mid/3"}], "threshold": 1}]
        reader, saes = choices([load("one"), load("two", indicators=more)])
        assert reader.path == str(tmp_path / "reader")
        assert [(sae.name, sorted(sae.wanted)) for sae in saes] == [("late", [0, 7]), ("mid", [3, 5, 11])]

    def test_an_sae_nobody_watches_is_not_loaded(self, load: Callable[..., Watchlist]) -> None:
        """An SAE without a watched feature costs nothing."""
        only = [{"name": "delta", "features": [{"feature": "mid/5"}], "threshold": 1}]
        _, saes = choices([load("one", indicators=only)])
        assert [sae.name for sae in saes] == ["mid"]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            pytest.param(
                {"reader": {"path": "other"}},
                "{two}:3: reader: one process has one reader with one way of rendering, and {one} asks for another",
                id="reader",
            ),
            pytest.param(
                {"reader": {"id": "google/gemma-2-2b"}},
                "{two}:3: reader: one process has one reader with one way of rendering, and {one} asks for another",
                id="reader by id",
            ),
            pytest.param(
                {"saes": {"mid": {"path": "sae/layer_1/other.npz"}, "late": {"path": "sae/layer_2/x.npz"}}},
                "{two}:6: saes.mid: another watchlist calls a different SAE 'mid'; rename one",
                id="file",
            ),
            pytest.param(
                {
                    "saes": {
                        "mid": {
                            "path": "sae/gemma-scope-2b-pt-res/layer_1/width_64/average_l0_20/params.npz",
                            "hookpoint": "layers.3.resid_post",
                        },
                        "late": {"path": "sae/gemma-scope-2b-pt-res/layer_2/width_64/average_l0_20/params.npz"},
                    }
                },
                "{two}:6: saes.mid: another watchlist calls a different SAE 'mid'; rename one",
                id="hookpoint",
            ),
        ],
    )
    def test_conflicts_are_refused_at_their_line(
        self, load: Callable[..., Watchlist], changes: dict[str, object], problem: str
    ) -> None:
        """Two watchlists that cannot live in one process are refused, and the message names both sides."""
        one, two = load("one"), load("two", **changes)
        with pytest.raises(WatchlistError) as caught:
            choices([one, two])
        assert str(caught.value) == problem.format(one=one.file, two=two.file)

    def test_a_name_stands_for_one_watchlist(self, write: Write) -> None:
        """Two watchlists of one name are refused: a caller could not choose between them."""
        one, two = (load_watchlist(write(watchlist_document(), f"{name}.yaml")) for name in ("one", "two"))
        with pytest.raises(WatchlistError) as caught:
            choices([one, two])
        assert str(caught.value) == f"{two.file}:2: name: another watchlist is already named 'test'"


def test_the_watchlist_of_a_known_reader_is_meant_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known reader's name is its watchlist, unless a file has that name; a misspelt one says which names there are."""
    monkeypatch.chdir(tmp_path)
    assert load_watchlist(Path("smollm2-135m-instruct")).reader.known == "smollm2-135m-instruct"
    with pytest.raises(WatchlistError, match=r"known: smollm2-135m-instruct$"):
        load_watchlist(Path("smollm2"))
    (tmp_path / "smollm2-135m-instruct").write_text("version: 1")
    with pytest.raises(WatchlistError, match="name"):
        load_watchlist(Path("smollm2-135m-instruct"))
