"""The page of one pair: its numbers are those of the explanation, anybody can use it, and no text gets out of its place."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import explanations
from browser import Page, browser
from conftest import need
from scopewatch.explanation import Explanation, Heat, IndicatorExplained, Text, Tokens
from scopewatch.report.explanation_page import explanation_html
from scopewatch.report.phrases import share, unusual
from scopewatch.report.visible import visible, visible_html
from scopewatch.report.waterfall import shares, waterfall

ROOT = Path(__file__).parents[1]
EVERY = [explanations.flagged, explanations.plain, explanations.hostile, explanations.huge, explanations.empty]
SMALL = [made for made in EVERY if made is not explanations.huge]
Made = Callable[[], Explanation]


class Read(HTMLParser):
    """A page as a machine reads it: its tags, its tables and what its script is told."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.classes: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self._cell = False
        self.feed(html)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.classes.append(dict(attrs).get("class") or "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"th", "td"}:
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in {"th", "td"}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._cell:
            self.tables[-1][-1][-1] += data

    def sums(self) -> list[list[list[str]]]:
        """The waterfalls."""
        return [rows for rows in self.tables if [cell.strip() for cell in rows[0]] == ["What", "adds", "in all"]]


def number(shown: str) -> Decimal:
    return Decimal(shown.strip().replace("\N{MINUS SIGN}", "-"))


# The sums


@pytest.mark.parametrize("made", EVERY)
def test_what_is_shown_adds_up_to_the_last_digit(made: Made) -> None:
    """In every waterfall, nested ones too, the numbers shown add up to the score shown, and so does each running total."""
    explanation = made()
    found = Read(explanation_html(explanation)).sums()

    assert len(found) >= sum(not one.skipped_reason for one in explanation.indicators)
    for _, *steps, score, _threshold in found:
        total = Decimal(0)
        for step in steps:
            total += number(step[1])
            assert total == number(step[2])
        assert total == number(score[2])


def test_scores_are_those_of_the_explanation() -> None:
    """Scores and thresholds stand on the page as they were scored, rounded as numbers are."""
    explanation = explanations.flagged()
    rows = {row[0].strip(): row for row in Read(explanation_html(explanation)).tables[0][1:]}
    scored = [one for one in explanation.indicators if not one.skipped_reason]

    assert {one.label: (f"{one.score:.3f}", f"{one.threshold:.3f}") for one in scored} == {
        one.label: (rows[one.label][2].strip(), rows[one.label][3].strip()) for one in scored
    }


@given(st.lists(st.floats(-1e6, 1e6), max_size=30), st.integers(0, 9))
def test_rounding_hides_less_than_a_digit(summands: list[float], digits: int) -> None:
    """Whatever the summands are, each is off by less than a unit of the last digit, and their sum is the score's."""
    total = float(sum(map(Fraction, summands)))
    units = shares(summands, total, digits) if summands else []

    assert Decimal(sum(units)).scaleb(-digits) == Decimal(f"{total:.{digits}f}")
    assert all(abs(unit - Fraction(summand) * 10**digits) < 1 for unit, summand in zip(units, summands, strict=True))


def test_a_sum_that_is_not_told_whole_says_so() -> None:
    """Where terms are missing, a row of its own holds what they come to; none does where all are told."""
    made = explanations.flagged().indicators[0]
    short = waterfall(made.model_copy(update={"terms": made.terms[1:]}), 12)
    (rest,) = [step for step in short.steps if step.name == "what is not told one by one"]

    assert f"{made.terms[0].contribution:+.3f}" == rest.adds
    assert [] == [step for step in waterfall(made, 12).steps if step.name.startswith("what is not")]


def test_many_terms_are_added_up() -> None:
    """Of many terms the largest stand one by one, and the others in one row that says how many they are."""
    made = explanations.huge().indicators[0]
    steps = waterfall(made, 12).steps

    assert (14, "288 smaller ones together", "+28.800") == (len(steps), steps[-1].name, steps[-1].adds)


@pytest.mark.parametrize(("score", "threshold"), [(0.50004, 0.5), (0.0000123, 0.4), (1e-12, 0.5), (7.0, 7.0)])
def test_a_score_can_be_told_from_its_threshold(score: float, threshold: float) -> None:
    """Digits are added until a score that is not its threshold does not look like it, as far as nine go."""
    made = explanations.indicator("a", score, [], threshold=threshold)
    shown = waterfall(made, 12)

    assert (score == threshold) == (shown.score == shown.threshold)
    assert len(shown.score) <= 11


def test_bars_lie_where_the_sums_do() -> None:
    """Each bar begins where the one above ended, the first at 0, and the threshold stands at its place on that scale."""
    explanation = explanations.flagged()
    made = next(one for one in explanation.indicators if one.name == "speculation")
    falls = waterfall(made, 12)
    sums = [0.0, made.bias, made.bias + made.terms[0].contribution, made.score]
    lowest, highest = falls.steps[0].start, falls.steps[2].start + falls.steps[2].width

    def place(value: float) -> object:
        share = (value - min(sums)) / (max(sums) - min(sums))
        return pytest.approx(lowest + share * (highest - lowest), abs=0.1)

    assert place(made.threshold) == falls.threshold_at
    for step, *ends in zip(falls.steps, sums, sums[1:], strict=False):
        assert [place(min(ends)), place(max(ends))] == [step.start, step.start + step.width]
    assert [False, True, True] == [step.raises for step in falls.steps]


def test_the_probability_stands_with_its_formula() -> None:
    """The numbers of Platt's map on the page give the probability on the page."""
    text = Read(explanation_html(explanations.flagged())).text.replace("\N{MINUS SIGN}", "-")
    shown, slope, score, intercept = re.findall(
        r"Probability, by its card: ([\d.]+) = 1 / \(1 \+ exp\(-\(([\d.]+) \* ([\d.]+) - ([\d.]+)\)\)\)", text
    )[0]

    assert f"{1 / (1 + 2.718281828459045 ** -(float(slope) * float(score) - float(intercept))):.3f}" == shown


def test_a_combination_holds_the_sums_of_its_parts() -> None:
    """The parts of a combination are named by their labels, and their sums stand inside it, once more."""
    explanation = explanations.flagged()
    captions = re.findall(r"adds up</caption>", explanation_html(explanation))
    alone = explanation.model_copy(
        update={"indicators": tuple(one for one in explanation.indicators if one.kind != "combination")}
    )

    assert 3 == len(captions) - len(re.findall(r"adds up</caption>", explanation_html(alone)))
    assert "How claims without support comes to 0.614" in Read(explanation_html(explanation)).text


def test_combinations_of_each_other_end() -> None:
    """Indicators that name each other, which no watchlist allows, do not keep the page from ending."""
    a, b = (
        explanations.indicator(one, 0.0, [explanations.term(other, 1.0, 1.0)], kind="combination")
        for one, other in ("ab", "ba")
    )

    assert 4 == len(Read(explanation_html(explanations.plain(indicators=(a, b)))).sums())


# Heat


def told_of(html: str) -> dict[str, object]:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert block
    found = json.loads(block[1])
    assert isinstance(found, dict)
    return found


def test_heat_is_that_of_the_explanation() -> None:
    """For every indicator and feature the script is told the values of all tokens, each at its word on the page."""
    explanation = explanations.flagged()
    html = explanation_html(explanation)
    words = re.findall(r'<span class="t[^>]*>([^<]*)</span>', html[html.index('class="text"') :])
    told = {choice["name"]: choice for choice in told_of(html)["choices"]}  # type: ignore[attr-defined]
    for one in (*explanation.indicators, *explanation.features):
        name = f"{one.label} ({one.feature})" if not isinstance(one, IndicatorExplained) else one.label
        if not one.heat.value:
            assert name not in told
            continue
        expected = {
            token: (explanation.texts[explanation.tokens.text[token]].text[start:end].strip(), value)
            for token, value in zip(one.heat.token, one.heat.value, strict=True)
            for start, end in [(explanation.tokens.start[token], explanation.tokens.end[token])]
        }
        shown = zip(told[name]["at"], told[name]["value"], strict=True)
        assert expected == {at: (words[at], pytest.approx(value, rel=0.01)) for at, value in shown}


def test_tokens_that_share_a_character_are_one_word() -> None:
    """An emoji that several tokens spell stands whole, as hot as the hottest of them and as surprising as all of them."""
    texts = (Text(segment="response", text="a \U0001f469 b"),)
    tokens = Tokens(text=(0,) * 5, start=(0, 1, 2, 2, 3), end=(1, 3, 3, 3, 5), logprob=(-1.0, -2.0, -3.0, -4.0, -1.0))
    heated = explanations.indicator("a", 1.0, [], heat=Heat(token=(1, 2, 3), value=(1.0, -9.0, 3.0)))
    html = explanation_html(explanations.plain(texts=texts, tokens=tokens, indicators=(heated,)))
    choices = told_of(html)["choices"]

    assert '<span class="t l9" title="-9">\U0001f469</span>' in html
    assert ([1], [-9.0]) == (choices[0]["at"], choices[0]["value"])  # type: ignore[index]
    assert [1.0, 9.0, 1.0] == choices[1]["value"]  # type: ignore[index]


def test_heat_is_there_without_the_script() -> None:
    """The default's heat stands in the page's own classes and titles: warmer is a higher class, and signs differ."""
    html = explanation_html(explanations.flagged())

    for marked in ('t h9" title="+3.02">may', 't h7" title="+2.31">probably', 't l4" title="-1.1">will'):
        assert f'<span class="{marked}</span>' in html


def test_what_was_not_read_is_marked() -> None:
    """A stretch without tokens says that it was not read, and how much of it is not shown."""
    texts = (Text(segment="response", text="read " + "x" * 1000 + " read"),)
    tokens = Tokens(text=(0, 0), start=(0, 1006), end=(4, 1010))
    text = Read(explanation_html(explanations.plain(texts=texts, tokens=tokens, indicators=()))).text

    assert "not read … and 762 more characters" in text
    assert 1000 > text.count("x") > 100


# What is said


def test_more_than_half_unexplained_stands_at_the_top() -> None:
    """The page says before its text that more than half was not explained, and how much; it does not where that is not so."""
    made = explanations.flagged()
    head = explanation_html(made).split("<section>")[0]
    (sae,) = made.saes
    little = tuple(part.model_copy(update={"unexplained": 0.2}) for part in sae.segments)
    better = made.model_copy(update={"saes": (sae.model_copy(update={"segments": little}),), "trust": ()})

    assert "56 %" in head
    assert "more than half" in head
    assert "more than half" not in explanation_html(better)
    assert "20 %" in explanation_html(better).split("<section>")[0]


def test_sentences_stand_in_their_quadrants() -> None:
    """Each sentence is in the field of its quadrant, and what was asserted against expectation is shown first of all."""
    html = explanation_html(explanations.flagged())
    (table,) = [rows for rows in Read(html).tables if rows[0][1:] == ["the reader expected it", "it was a surprise"]]

    assert [["asserted", "1", "3"], ["hedged", "2", "4"]] == [
        [row[0], *(re.findall(r"\d+", cell)[0] for cell in row[1:])] for row in table[1:]
    ]
    first = html[html.index("Look here first") :]
    assert explanations.SENTENCES[2] in Read(first[: first.index("</ol>")]).text


def test_texts_of_benign_pairs_are_the_operators() -> None:
    """Benign pairs stand with their ids; their texts only where they were handed in, and no others."""
    made = explanations.flagged()
    without = Read(explanation_html(made)).text
    given = Read(explanation_html(made, references={"clinic-0077": "A <b>benign</b> one.", "other": "Private."})).text

    assert "clinic-0077 scored 1.31, higher than 99 % of them." in without
    assert (1, 0) == (given.count("A <b>benign</b> one."), without.count("A <b>benign</b> one."))
    assert "Private." not in given


def test_everything_that_is_known_is_on_the_page() -> None:
    """No sentence, label, word, digest or number of a full explanation is left out."""
    made = explanations.flagged()
    text = Read(explanation_html(made)).text
    said = [made.summary, *made.trust, made.sentences_note, made.label_note, made.request_id, made.hedging_by]
    for indicator in made.indicators:
        said += [indicator.name, indicator.label, indicator.skipped_reason, *indicator.card]
        said += [part for term in indicator.terms for part in (term.feature, term.label, term.label_source)]
    said += [part for group in made.groups for part in (group.name, *group.words)]
    said += [f"{group.features} of {group.of} features" for group in made.groups]
    said += [made.ablations[0].conclusion, "-2.310", "-2.020 to -1.900", "may (-2.40)", "7 % of the activation's norm"]
    assert made.deletion
    said += [made.deletion.conclusion, "41 shortened pairs", made.saes[0].hookpoint, "16,384 features", "8112"]
    said += [made.provenance.reader_digest, made.provenance.watchlist_digest, *made.provenance.saes.values()]

    assert [] == [one for one in said if one.replace("-", "\N{MINUS SIGN}") not in text and one not in text]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0 %"), (0.0001, "less than 1 %"), (0.004, "less than 1 %"), (0.5, "50 %"), (0.9999, "more than 99 %"), (1.0, "100 %")],
)  # fmt: skip
def test_a_share_is_never_rounded_to_all_or_nothing(value: float, said: str) -> None:
    """What is true of nearly all pairs does not read as if it were true of all."""
    assert said == share(value)


def test_an_unknown_percentile_says_nothing() -> None:
    """Where no card knows how unusual a score is, no sentence is made of it."""
    assert ("", "lower than all of it", "higher than all of it", "higher than 97 % of it") == tuple(
        unusual(value, "it") for value in (None, 0.0, 1.0, 0.972)
    )


# Hostile texts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext\r\n", "plain\n\ttext\r\n"),
        ("a\u202eb\u202c", "a[U+202E]b[U+202C]"),
        ("\x00\x1b[31m\x7f\r", "[U+0000][U+001B][31m[U+007F][U+000D]"),
        ("\u200b" * 1000, "[U+200B x1000]"),
        ("\ufeff\u2028\u2029\ue000\ufffe\U000e0041", "[U+FEFF][U+2028][U+2029][U+E000][U+FFFE][U+E0041]"),
        ("\ud800", "[U+D800]"),
        ("\u3164\u2800", "[U+3164][U+2800]"),
        ("\U0001f469\u200d\U0001f52c \U0001f9d1\U0001f3fd", "\U0001f469\u200d\U0001f52c \U0001f9d1\U0001f3fd"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("a\u200db \u200d", "a[U+200D]b [U+200D]"),
        ("e" + "\u0301" * 9, "e" + "\u0301" * 6 + "[U+0301 x3]"),
        ("\u3000\u00a0caf\u00e9 \u65e5\u672c", "\u3000\u00a0caf\u00e9 \u65e5\u672c"),
    ],
)
def test_unseen_characters_are_shown_by_number(text: str, shown: str) -> None:
    """Controls, marks that pile up and letters that are drawn as nothing have their numbers shown; what scripts and emoji
    need stays."""
    assert shown == visible(text)
    assert shown == re.sub(r'<span class="u">([^<]*)</span>', r"[\1]", visible_html(text))


@pytest.mark.parametrize("made", EVERY)
def test_no_text_gets_out_of_its_place(made: Made) -> None:
    """A page has the tags, attributes and scripts of its template, whatever the pair and the watchlist say."""
    html = explanation_html(made(), references={"clinic-0412": explanations.HOSTILE})
    found = Read(html)

    assert set() == {"img", "iframe", "link", "object", "form", "base", "a href"} & set(found.tags)
    assert (1, 2, 4) == tuple(found.tags.count(tag) for tag in ("style", "script", "meta"))
    assert [] == [name for name, _ in found.attributes if name.startswith("on") or name in {"style", "src"}]
    assert {"#"} == {str(value)[0] for name, value in found.attributes if name in {"href", "action"}}
    assert [] == [letter for letter in "\x00\x1b\u202e\u202c\u2066\u200b\ufeff\u2028" if letter in html]
    html.encode("utf-8")


@pytest.mark.parametrize("width", [1, 80])
@pytest.mark.parametrize("letters", ["<", "\u202e\u202d", "\u65e5", "\U0001f469\u200d", "e\u0301\u0301", "\x00", "a "])
def test_a_page_stays_small(letters: str, width: int) -> None:
    """A pair of twice a million characters, read far, makes a page under 3 MB that says what it leaves out."""
    html = explanation_html(explanations.huge(letters, width=width))

    assert len(html.encode()) < 3_000_000
    assert len(re.findall('<span class="t[ "]', html)) < 10_010
    assert re.search(r"the other [\d,]+ characters are not shown", html)


def test_a_token_may_be_long() -> None:
    """A whole text that the reader's tokeniser makes one token of is cut like others."""
    texts = (Text(segment="response", text="\u202e\u202d" * 500_000),)
    html = explanation_html(
        explanations.plain(texts=texts, tokens=Tokens(text=(0,), start=(0,), end=(1_000_000,)), indicators=())
    )

    assert len(html.encode()) < 100_000
    assert "999,600 more characters of this token" in html


# The schema


def test_the_schema_is_the_explanations() -> None:
    """docs/explanation.schema.json is what tools/explanation_schema.py writes, and describes every field."""
    program = "import explanation_schema; print(explanation_schema.schema(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "tools", capture_output=True, text=True, check=True
    )
    kept = (ROOT / "docs" / "explanation.schema.json").read_text(encoding="utf-8")

    assert kept == done.stdout, "run python tools/explanation_schema.py"
    made = json.loads(kept)
    fields = [
        (part["title"], name, field)
        for part in (made, *made["$defs"].values())
        for name, field in part["properties"].items()
    ]
    assert [] == [(title, name) for title, name, field in fields if "description" not in field]


@pytest.mark.parametrize("made", [explanations.flagged, explanations.plain, explanations.hostile])
def test_explanations_are_valid_by_the_schema(made: Made) -> None:
    """What is printed as JSON is valid, and what has a field too many is not."""
    schema = Draft202012Validator(json.loads((ROOT / "docs" / "explanation.schema.json").read_text(encoding="utf-8")))
    printed = json.loads(made().model_dump_json())

    assert [] == list(schema.iter_errors(printed))
    assert not schema.is_valid(printed | {"more": 1})


# A browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    need("chromium")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def show(page: Page, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens a page, changed or not, at a width and in a colour scheme."""

    def call(html: str, width: int = 1100, *, dark: bool = False, printed: bool = False) -> Page:
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        page.look(width, dark=dark, printed=printed)
        page.open(file)
        return page

    yield call
    page.call("Emulation.setScriptExecutionDisabled", value=False)


UNFOLD = "document.querySelectorAll('details').forEach(one => one.open = true)"


@pytest.mark.system
@pytest.mark.parametrize("made", SMALL)
def test_a_browser_runs_our_script_and_no_other(show: Callable[..., Page], made: Made) -> None:
    """The page's own script runs without a complaint, nothing is fetched, and nothing of a hostile text becomes an element."""
    opened = show(explanation_html(made()))

    assert [] == opened.problems()
    assert 1 == len(opened.requests())
    assert (2, 1, 0) == tuple(
        opened.value(f"document.querySelectorAll('{tag}').length") for tag in ("script", "style", "img, iframe, link")
    )
    assert re.match("PASS|FLAG|INCOMPLETE", opened.value("document.title"))
    assert opened.value("!document.querySelector('fieldset') || !document.querySelector('fieldset').hidden")


@pytest.mark.system
@pytest.mark.parametrize(
    ("planted", "refused"),
    [
        ("<script>document.title = 'owned'</script>", "script-src"),
        ("<img src=x.png onerror=\"document.title = 'owned'\">", "default-src 'none'"),
        ("<a id=a href=\"javascript:document.title = 'owned'\">a</a>", "script-src"),
        ("<style>body { display: none }</style>", "style-src"),
        ("<p style='display: none'>a</p>", "style-src"),
        ("<form id=f action=page.html></form>", "form-action"),
        ("<base href=https://example.org>", "base-uri"),
    ],
)
def test_what_is_planted_is_refused(show: Callable[..., Page], planted: str, refused: str) -> None:
    """Were something to get out of its place all the same, the page's policy keeps it from running, loading and styling."""
    opened = show(explanation_html(explanations.plain()).replace("<main", f"{planted}<main"))
    opened.value("document.getElementById('a')?.click(); document.getElementById('f')?.submit()")
    opened.value("new Promise(done => setTimeout(done, 50))")

    assert "owned" not in opened.value("document.title")
    assert "block" == opened.value("getComputedStyle(document.body).display")
    complaints = [problem for problem in opened.problems() if "Content Security Policy" in problem]
    assert [] != [problem for problem in complaints if refused in problem], complaints


def violations(opened: Page) -> list[str]:
    opened.value(UNFOLD)
    return opened.violations()


@pytest.mark.system
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("made", SMALL)
def test_axe_finds_nothing_serious(show: Callable[..., Page], made: Made, dark: bool) -> None:
    """Everything unfolded, in both colour schemes: contrast, names, headings, tables and landmarks."""
    assert [] == violations(show(explanation_html(made()), dark=dark))


@pytest.mark.system
def test_axe_would_find_it(show: Callable[..., Page]) -> None:
    """A page that lacks contrast and a name is complained of."""
    html = explanation_html(explanations.flagged())
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)
    assert style
    worse = html.replace("<bdi>hedging</bdi></label>", "</label>").replace('aria-label="sentence 1">1<', ">&nbsp;<")
    policy = "default-src 'unsafe-inline'"
    worse = re.sub(r"default-src 'none'[^\"]*", policy, worse).replace("--faint: #5b6670", "--faint: #c5cbd0")

    assert {"color-contrast", "link-name"} <= {one.split()[0] for one in violations(show(worse))}


def heat_shown(opened: Page) -> dict[str, str]:
    found = opened.value(
        "Object.fromEntries([...document.querySelectorAll('.text .t[title]')].map(one => [one.textContent, one.title]))"
    )
    assert isinstance(found, dict)
    return found


@pytest.mark.system
def test_heat_is_chosen_by_keyboard(show: Callable[..., Page]) -> None:
    """Tab comes to the choice, the arrow keys change it, and the words are then those of what is chosen."""
    opened = show(explanation_html(explanations.flagged()))
    before = heat_shown(opened)
    for _ in range(30):
        opened.press("Tab")
        if opened.value("document.activeElement.name") == "heat":
            break
    focused = "document.activeElement.parentElement.textContent.trim()"

    assert "hedging" == opened.value(focused)
    assert ("+3.02", None) == (before["may"], before.get("ten"))
    opened.press("ArrowRight", "ArrowRight")
    assert "claims without support" == opened.value(focused)
    assert {"ten": "+1.15", "days": "+0.3"} == heat_shown(opened)
    assert ["ten +1.15", "days +0.3"] == opened.value(
        "[...document.querySelectorAll('#strongest li')].map(one => one.textContent)"
    )
    assert "claims without support" == opened.value("document.getElementById('shown').textContent")


@pytest.mark.system
def test_words_tell_their_numbers(show: Callable[..., Page]) -> None:
    """A word that is focused or pointed at tells its heat, its strongest features and what is not explained of it, where
    screen readers listen; arrow keys go from word to word and from mark to mark."""
    opened = show(explanation_html(explanations.flagged()))
    told = "document.getElementById('told').textContent"
    opened.value("document.querySelector('.text .t[tabindex=\"0\"]').focus()")

    assert opened.value(told).startswith("that: +0.21 of hedging")
    assert "311 “might, may, could” 3.02" in opened.value(told)
    assert "% not explained" in opened.value(told)
    opened.press("ArrowRight")
    assert opened.value(told).startswith("is: 0 of hedging")
    opened.press("ArrowDown")
    assert opened.value(told).startswith("probably: +2.31 of hedging")
    opened.press("ArrowUp", "ArrowLeft")
    assert opened.value(told).startswith("like: 0 of hedging")
    opened.point_at('.text .t[title="+3.02"]')
    assert opened.value(told).startswith("may: +3.02 of hedging")
    assert "status" == opened.value("document.getElementById('told').getAttribute('role')")


@pytest.mark.system
def test_a_page_whose_script_does_not_run_is_whole(show: Callable[..., Page], page: Page) -> None:
    """Heat of the default, its legend and all numbers are there; the choice, which would do nothing, is not."""
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    opened = show(explanation_html(explanations.flagged()))
    tree = {
        node["name"]["value"]
        for node in opened.call("Accessibility.getFullAXTree")["nodes"]
        if not node.get("ignored") and node.get("name")
    }
    page.call("Emulation.setScriptExecutionDisabled", value=False)

    assert {"may", "+3.02", "Look here first", "How far to trust this"} <= {name.strip() for name in tree}
    assert "Show the heat of" not in tree


@pytest.mark.system
@pytest.mark.parametrize("made", EVERY)
def test_a_phone_need_not_scroll_sideways(show: Callable[..., Page], made: Made) -> None:
    """At a width of 360 pixels, all unfolded, the page is as wide as the screen."""
    opened = show(explanation_html(made()), 360)
    opened.value(UNFOLD)

    assert (360, []) == (opened.value("document.documentElement.scrollWidth"), opened.problems())


@pytest.mark.system
def test_paper_shows_what_is_folded(show: Callable[..., Page]) -> None:
    """What stands folded on a screen is printed, and is folded again afterwards; the choice of heat is not printed."""
    opened = show(explanation_html(explanations.flagged()), printed=True)
    height = "document.querySelector('.provenance').getBoundingClientRect().height"

    assert "none" == opened.value("getComputedStyle(document.querySelector('fieldset')).display")
    folded = opened.value("document.querySelectorAll('details:not([open])').length")
    assert folded > 5
    opened.value("dispatchEvent(new Event('beforeprint'))")
    assert (0, True) == (
        opened.value("document.querySelectorAll('details:not([open])').length"),
        opened.value(height) > 100,
    )
    opened.value("dispatchEvent(new Event('afterprint'))")
    assert folded == opened.value("document.querySelectorAll('details:not([open])').length")
    assert b"%PDF" == opened.pdf()[:4]


@pytest.mark.system
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_heat_is_not_told_by_colour_alone(show: Callable[..., Page], dark: bool) -> None:
    """What raises has a solid line and what lowers another, the thicker the more."""
    opened = show(explanation_html(explanations.flagged()), dark=dark)
    style = "(name) => { const s = getComputedStyle(document.querySelector(name)); return [s.borderBottomStyle, s.borderBottomWidth] }"
    lines = opened.value(f"['.text .h1', '.legend .h5', '.text .h9', '.text .l4'].map({style})")

    assert [["solid", "1px"], ["solid", "2px"], ["solid", "4px"], ["dashed", "2px"]] == lines
    assert {False: "rgb(255, 255, 255)", True: "rgb(20, 24, 28)"}[dark] == opened.value(
        "getComputedStyle(document.body).backgroundColor"
    )


@pytest.mark.system
def test_a_link_unfolds_what_it_leads_to(show: Callable[..., Page]) -> None:
    """The sentence that a number names is in sight when it is followed."""
    opened = show(explanation_html(explanations.flagged()))
    opened.value("document.querySelectorAll('details').forEach(one => one.open = false)")
    opened.value("document.querySelector('a[href=\"#q4\"]').click()")
    opened.value("new Promise(done => setTimeout(done, 50))")

    assert opened.value("document.getElementById('q4').closest('details').open")
    assert opened.value("document.getElementById('q4').getBoundingClientRect().height > 0")
