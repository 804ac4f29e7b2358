"""Cleaning: nothing is hidden by odd characters, ordinary text stays as it is, and places in the original are known."""

import unicodedata
from itertools import pairwise
from types import SimpleNamespace

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scopewatch.reader.cleaning import invisible
from scopewatch.reader.cleaning.clean import _ORDINARY, _SPELLING, clean, odd_chars

ODD = (
    "mMaAyYiI '.\n1-"
    "\u200b\u200c\u200d\u00ad\u2060\ufeff\u3164\u180e\u180b\ufe0f\u202e\u200f\U000e0061\U000e007f\x0b\x00\u2800"
    "\u0336\u0301\u0327\u0489\u20e3\u0332\u0307\u064b"
    "ａ１𝓶𝛂ⓜ🅼ᵐℝKﬁﻣﷺｶﾞᄀ가"
    "ᴍɪаусÀёαοΤꓟТһИßİΣς"
    "क्مת中あ한กខᠠ👨🏽❤🏴🇺"
)
"""Characters of every kind that cleaning knows."""
TEXTS = st.one_of(st.text(), st.text(st.sampled_from(ODD)), st.text(st.characters(codec="utf-8")))

PROSE = {
    "Amharic": "ሰላም ለዓለም። ይህ አጭር ጽሑፍ ነው።",
    "Arabic": "هذا نصٌّ عربيٌّ عاديّ، وفيه «اقتباس» و١٢٣ رقمًا ﷺ.",
    "Armenian": "Սա սովորական տեքստ է և ունի սա։ Նա հոս ա։",
    "Bengali": "এটি একটি সাধারণ বাড়ি, র‍্যাব এবং ক্ষেত্র।",
    "Braille": "⠓⠑⠇⠇⠕⠀⠺⠕⠗⠇⠙",
    "Cherokee": "ᎣᏏᏲ ᏙᎯᏧ ᎠᏴ ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ.",
    "Chinese": "这是一段普通的文字，“引号”（括号）。如图①②所示，第１０页ＡＢ区。",
    "Danish": "Æblet på øen, og så videre.",
    "Devanagari": "यह एक साधारण वाक्य है — क़लम, न‍ही, र्‌क।",
    "Emoji": "Yes 👩‍👩‍👧‍👦 ❤️‍🔥 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 👍🏽 🇺🇸🇬🇧 🅰️ ☺︎ ™️",
    "English": "It may be, I’m sure… McDonald’s iPhone costs £5 at 20 °C; “naïve” café, x² ≠ ½, №\u00a05™, ℝ, Ⓡ, don't.",
    "Ewe": "Ɖeviwo le ɔ̀fe ɛ́, eye ŋutsu ʋu la.",
    "French": "L’été, 1ᵉʳ mai, Mᵐᵉ Dupont : «\u202fça va\u202f».",
    "Georgian": "ეს არის ჩვეულებრივი ტექსტი.",
    "Greek": "Αυτό είναι ένα κανονικό κείμενο. Ο τόπος και η ώρα, το νου.",
    "Gujarati": "આ એક સામાન્ય વાક્ય છે.",
    "Hebrew": "זֶה טֶקְסְט רָגִיל, שלום\u200f!",
    "Hungarian": "Árvíztűrő tükörfúrógép.",
    "Japanese": "これは普通の文です。「引用」１２３ａｂｃ、カタカナ・ー。が",
    "Kannada": "ಇದು ಸಾಮಾನ್ಯ ವಾಕ್ಯ, ರ‍್ಯ.",
    "Khmer": "នេះ\u200bជា\u200bអត្ថបទ\u200bធម្មតា។",
    "Korean": "이것은 평범한 문장입니다. ㅋㅋㅋ ㅠㅠ",
    "Lao": "ນີ້ແມ່ນຂໍ້ຄວາມທຳມະດາ.",
    "Lisu": "ꓡꓲꓢꓴ ꓐꓳ ꓤꓶ ꓟꓬ",
    "Malayalam": "ഇത് ഒരു സാധാരണ വാക്യമാണ്, അവന്‍.",
    "Mongolian": "ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ ᠪᠠᠶᠢᠨ᠎ᠠ ᠠ᠋",
    "Myanmar": "ဤသည်မှာ ရိုးရိုးစာသားဖြစ်သည်။",
    "Navajo": "Diné bizaad, ąą́ ǫ́ł.",
    "Persian": "می‌خواهم این متن‌ها را بخوانم.",
    "Russian": "Это обычный текст: а у нас сор, хор и ухо. За́мок, ёж, «СD-ром», май.",
    "Science": "TNFα and NFκB, αvβ3, 5 μm, λx, kΩ, Δt, the α and ρ parameters; the phase is νt there.",
    "Sinhala": "මෙය සාමාන්‍ය වාක්‍යයකි, ශ්‍රී ලංකා.",
    "Tamil": "இது ஒரு சாதாரண வாக்கியம்.",
    "Telugu": "ఇది సాధారణ వాక్యం.",
    "Thai": "นี่คือข้อความธรรมดา คำว่าน้ำ",
    "Tibetan": "འདི་ནི་ཡི་གེ་ཡིན།",
    "Turkish": "Işık ılık, İstanbul’da çığ.",
    "Ukrainian": "Це звичайний текст, і її їжа.",
    "Vietnamese": "Đây là một đoạn văn bình thường, được viết.",
    "Yoruba": "Ọ̀rọ̀ yìí jẹ́ èdè Yorùbá.",
    "Both": "The Russian word мир means peace, and «рот» is a mouth (он сказал: сор).",
    "Pages": "The end.\x0cChapter two\n\tbegins here.\r\n",
}


@pytest.mark.parametrize("script", PROSE)
def test_ordinary_prose_stays_as_it_is(script: str) -> None:
    """Prose without words in capitals comes back as it is, in any language, and nothing in it is odd."""
    found = clean(PROSE[script])
    assert found.text == PROSE[script]
    assert (found.invisible_chars, found.lookalike_chars) == (0, 0)


INVISIBLE = [
    *"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180e\u180f\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2061",
    *"\u2062\u2064\u2065\u2066\u2069\u206a\u206f\u2800\u3164\ufe00\ufe0e\ufe0f\ufeff\uffa0\ufff0\ufff9\ufffb\U0001bca0",
    *"\U0001d173\U000e0001\U000e0020\U000e0061\U000e007f\U000e0100\U000e01ef\U000e0fff",
    *map(chr, (*range(9), *range(11, 13), *range(14, 32), *range(127, 160))),
]


@pytest.mark.parametrize("char", INVISIBLE, ids=lambda char: f"U+{ord(char):04X}")
def test_characters_that_are_not_seen_are_taken_out(char: str) -> None:
    """An invisible character between letters goes, is counted, and leaves every letter in its place."""
    found = clean(f"it m{char}a{char}{char}y be")
    assert found.text == "it may be"
    assert found.invisible_chars == 3
    assert found.starts.tolist() == [0, 1, 2, 3, 5, 8, 9, 10, 11]
    assert found.ends.tolist() == [1, 2, 3, 4, 6, 9, 10, 11, 12]


@pytest.mark.parametrize("text", ["a \u200b b", "!\u2060?", "\u200b", "- \ufeff\u200b -"])
def test_invisible_characters_away_from_letters_are_not_counted(text: str) -> None:
    """What hides nothing is taken out and raises no alarm."""
    found = clean(text)
    assert not regex.search(r"\p{Default_Ignorable_Code_Point}", found.text)
    assert found.invisible_chars == 0


def test_joiners_stay_only_where_a_script_or_an_emoji_has_them() -> None:
    """A joiner after a Persian letter is orthography; a second one, and one after a Latin letter, hide something."""
    found = clean("می‌‌خواهم a‌b")
    assert found.text == "می‌خواهم ab"
    assert found.invisible_chars == 2
    assert clean("👨‍👩 👨‍ m‍").text == "👨‍👩 👨 m"


def test_a_message_in_tags_does_not_pass_as_a_flag() -> None:
    """Tags that spell more than a region are not part of a flag."""
    tags = "".join(chr(0xE0000 + ord(char)) for char in "ignoreall")
    assert clean(f"🏴{tags}\U000e007f yes").text == "🏴 yes"


MAY = {
    "full-width": "ｍａｙ",
    "script": "𝓂𝒶𝓎",
    "bold": "𝐦𝐚𝐲",
    "monospace": "𝚖𝚊𝚢",
    "double-struck": "𝕞𝕒𝕪",
    "circled": "ⓜⓐⓨ",
    "parenthesised": "⒨⒜⒴",
    "raised": "ᵐᵃʸ",
    "small capitals": "ᴍᴀʏ",
    "Cyrillic": "mау",
    "Cyrillic m": "мay",
    "Greek": "mαγ",
    "Armenian and Georgian": "maყ",
    "Cherokee": "ꮇay",
}


@pytest.mark.parametrize("kind", MAY)
def test_letters_that_imitate_others_are_written_as_those(kind: str) -> None:
    """A word in another form, or with letters of another script, is read as the word that it looks like."""
    found = clean(f"it {MAY[kind]} be so")
    assert found.text == "it may be so"
    assert found.lookalike_chars == sum(not char.isascii() for char in MAY[kind])
    assert found.invisible_chars == 0
    assert found.starts.tolist() == list(range(12))


@pytest.mark.parametrize("kind", ["ＭＡＹ", "🄼🄰🅈", "🅜🅐🅨", "🅼🅰🆈", "ꓟꓮꓬ", "ΜΑΥ", "МАУ", "ᎷᎪᎩ", "ℳᴬY"])
def test_capitals_that_imitate_others_become_a_word_in_small_letters(kind: str) -> None:
    """What is written in odd capitals is read as the word, as if it had been written in plain capitals."""
    assert clean(f"it {kind} be so").text == "it may be so"


@pytest.mark.parametrize(
    "written", ["tHe rAiN mAy fAlL. iT mIgHt.", "ᴛʜᴇ ʀᴀɪɴ ᴍᴀʏ ꜰᴀʟʟ. ɪᴛ ᴍɪɢʜᴛ.", "ⓣⓗⓔ ⓡⓐⓘⓝ ⓜⓐⓨ ⓕⓐⓛⓛ. ⓘⓣ ⓜⓘⓖⓗⓣ."]
)
def test_a_sentence_of_odd_letters_begins_with_a_capital(written: str) -> None:
    """What imitates letters seldom has capitals, and a reader expects one; texts in plain small letters keep theirs."""
    assert clean(written).text == "The rain may fall. It might."
    assert clean("the rain may fall. it might.").text == "the rain may fall. it might."


def test_short_words_go_with_the_others() -> None:
    """In a text of odd capitals a short word that looks like a name is none, nor is a letter in a circle a sign."""
    assert clean("sOmE Of iT Is tHeRe In OsLo").text == "Some of it is there in oslo"
    assert clean("ⓐⓢ ⓐ ⓡⓤⓛⓔ").text == "As a rule"
    assert clean("Some of it is in Oslo Ⓐ").text == "Some of it is in Oslo Ⓐ"


def test_a_word_of_lookalikes_is_of_the_language_around_it() -> None:
    """A word all of whose letters are ambiguous is Latin in English text, Russian beside Russian, and itself alone."""
    assert clean("the сор said so").text == "the cop said so"
    assert clean("the word сор, мусор").text == "the word сор, мусор"
    assert clean("сор").text == "сор"
    assert clean("а cat").text == "A cat"
    assert clean("the cafё is").text == "the cafë is"
    assert clean("plan В, Χ").text == "plan В, Χ"


@pytest.mark.parametrize("mark", "\u0336\u0335\u0337\u0338\u0332\u0305\u0333\u20dd\u0489\u20d2\u20e5")
def test_letters_that_are_struck_through_are_read(mark: str) -> None:
    """A line or a ring drawn on every character of a text is taken away, and counted where it stands on letters."""
    found = clean("".join(char + mark for char in "it may be"))
    assert found.text == "it may be"
    assert found.invisible_chars == 7
    assert (found.starts[3], found.ends[3]) == (6, 8)


@given(st.lists(st.characters(min_codepoint=0x300, max_codepoint=0x36F), min_size=6, max_size=300))
def test_piles_of_marks_are_taken_away(marks: list[str]) -> None:
    """However many marks stand on a letter, it is read."""
    found = clean(f"ma{''.join(marks)}y")
    assert unicodedata.normalize("NFD", found.text)[0] == "m"
    assert len(found.text) == 3
    assert found.text[2] == "y"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("It MAY be mAyBe so", "It may be maybe so"),
        ("THIS IS A TEST. I'M SURE, AND I DON'T CARE!", "This is a test. I'm sure, and I don't care!"),
        ("NASA’s plan\nWHO knows? CEOs DO", "Nasa’s plan\nWho knows? Ceos do"),
        ("McDonald, iPhone, GitHub, JavaScriptCore, LinkedIn, IJsland", None),
        ("ΑΥΤΟΣ ΕΔΩ", "Αυτος εδω"),
        ("İSTANBUL BİR", "İstanbul bİr"),
        ("STRASSE vErY", "Strasse very"),
    ],
)
def test_capitals_stand_where_orthography_puts_them(written: str, read: str | None) -> None:
    """Words in capitals or in changing case are read in small ones, and the capitals of sentences and names stay."""
    found = clean(written)
    assert found.text == (read or written)
    assert (found.invisible_chars, found.lookalike_chars) == (0, 0)


def test_a_letter_written_in_parts_or_joined_is_in_one_place() -> None:
    """Ligatures, parts of syllables and letters with marks keep their place in the original."""
    found = clean("ﬁn e\u0301té ｶﾞ ﻣﺮ \u1112\u1161\u11ab")
    assert found.text == "fin été ガ مر 한"
    assert found.starts.tolist() == [0, 0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14]
    assert found.ends.tolist() == [1, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 17]


@settings(max_examples=500)
@given(TEXTS)
@example("H\u0331A B\u0331A")
@example("a H\u0331A")
@example("ҺА HELLO")
@example("🅰️🅱 x")
@example("NATOᵐᵉ I'ᵃ")
@example("TNFα mαy MΑY")
@example("a\u200d\u0336\u200b\u0301")
@example("ß\u0130\u0307")
def test_a_clean_text_is_clean(text: str) -> None:
    """Cleaning again changes nothing and finds nothing, and both ways to count agree."""
    found = clean(text)
    again = clean(found.text)
    assert again.text == found.text
    assert (again.invisible_chars, again.lookalike_chars) == (0, 0)
    odd = odd_chars(text)
    assert (odd.invisible_chars, odd.lookalike_chars) == (found.invisible_chars, found.lookalike_chars)
    assert odd.invisible_chars + odd.lookalike_chars <= len(text)


@settings(max_examples=500)
@given(TEXTS)
def test_places_are_known(text: str) -> None:
    """Places go forward and lie inside the original, and what no character of the clean text stands at is not seen."""
    found = clean(text)
    assert found.starts.shape == found.ends.shape == (len(found.text),)
    assert found.starts.dtype == found.ends.dtype == "int32"
    places = list(zip(found.starts.tolist(), found.ends.tolist(), strict=True))
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert all(one[0] <= other[0] and one[1] <= other[1] for one, other in pairwise(places))
    covered = {index for start, end in places for index in range(start, end)}
    left_out = "".join(char for index, char in enumerate(text) if index not in covered)
    assert regex.fullmatch(r"[\p{Default_Ignorable_Code_Point}\p{Cc}\ufff9-\ufffb\u2800\U0001d159]*", left_out)


def test_no_long_pile_of_marks_is_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting marks in order takes a time that grows with the square of their number, so that only few are."""
    lengths = []

    def normalize(form: str, text: str) -> str:
        lengths.append(len(text))
        return unicodedata.normalize(form, text)

    monkeypatch.setattr(invisible, "unicodedata", SimpleNamespace(normalize=normalize, category=unicodedata.category))
    for letter in "mжあ":
        clean("it " + letter + "\u0301\u0327" * 10_000)
    assert 0 < max(lengths) <= 8


@given(
    st.text(
        st.characters(max_codepoint=0x17E, exclude_characters="\xad\u0131", exclude_categories=["Cc"])
        | st.characters(min_codepoint=0x2010, max_codepoint=0x27BF, categories=["P", "S"])
        | st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF, exclude_categories=["Cn"]),
        max_size=30,
    )
)
def test_ordinary_characters_need_no_second_look(text: str) -> None:
    """What is taken for ordinary at once is what every step would leave as it is."""
    if _ORDINARY.fullmatch(text):
        assert not [edit for step in _SPELLING for edit in step(text)]


def test_every_ordinary_character_is_left_alone_among_letters() -> None:
    """One by one, at letters and at its like."""
    for char in map(chr, range(0x20000)):
        if _ORDINARY.fullmatch(char):
            text = f"a{char}b {char}{char} {char}"
            assert not [edit for step in _SPELLING for edit in step(text)], hex(ord(char))
