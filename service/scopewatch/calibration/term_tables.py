"""Tables of what an indicator is made of: its terms with their weights, and what pairs show of each."""

from collections import Counter
from collections.abc import Mapping, Sequence

from scopewatch.pairs.examples import AROUND_CHARS, Example
from scopewatch.report.excerpts import Excerpt, Place, excerpt
from scopewatch.report.looks import looks_of
from scopewatch.report.tables import Cell, Table, table_of_columns
from scopewatch.statistics.scores import Bool, Scores
from scopewatch.watch.indicators import Indicator
from scopewatch.words.bag import Bag, buckets_of
from scopewatch.words.find import find_words
from scopewatch.words.lexicon import Lexicon

TITLE = "What it is made of"
_LONGEST = 200
_MOST_WORDS = 40


def features_table(
    indicator: Indicator,
    labels: Bool,
    fired: Mapping[str, Bool],
    strongest: Mapping[int, Example] | None = None,
) -> Table:
    """The table of the features that an indicator weighs, or of its probe.

    Args:
        indicator: The indicator, of kind `features` or `probe`.
        labels: The label of each of n pairs that did not fit it; that of pairs that have none is 0.
        fired: Whether each term is not 0 on each of these pairs, by the term's name; of a term that is missing it never
            is.
        strongest: The token on which a feature is strongest in the pairs that fitted it, by the feature.
    """
    terms, is_probe = indicator.features, indicator.kind == "probe"
    columns: dict[str, Sequence[Cell]] = {
        "feature": [term.feature for term in terms],
        "weight": [_weight(term.weight) for term in terms],
        "pooling": [str(term.pooling or indicator.pooling) for term in terms],
        "label": [term.label for term in terms],
        "strongest on": [_in_context((strongest or {}).get(term.key.index)) for term in terms],
    }
    if not is_probe:
        on = [fired.get(name) for name in indicator.term_names]
        columns |= {title: [_share(one, mine) for one in on] for title, mine in _kinds(labels).items()}
    note = (
        "A probe is one direction of the reader's activations, and has no words of its own: what it points at is seen "
        "in the pairs that it flags."
        if is_probe
        else f"{_in(labels)}: the share of the pairs measured on which the term is not 0."
    )
    return table_of_columns(TITLE, columns, f"{_sum(indicator)} {note}", longest=_LONGEST)


def combination_table(
    indicator: Indicator, parts: Mapping[str, Indicator], scores: Mapping[str, Scores], beside: Sequence[str] = ()
) -> Table:
    """The table of what a combination weighs.

    Args:
        indicator: The combination.
        parts: The indicators that it may combine, by name.
        scores: The scores of pairs that did not fit it, by each part that is known of them, by name.
        beside: The detectors that the combination is shown beside, if any.
    """
    terms = indicator.combines
    columns: dict[str, Sequence[Cell]] = {
        "part": [term.name for term in terms],
        "kind": [parts[term.name].kind if term.indicator else "signal of the reader" for term in terms],
        "weight": [_weight(term.weight) for term in terms],
        "weight x deviation": [
            term.weight * float(scores[term.name].std()) if term.name in scores else None for term in terms
        ],
        "label": [parts[term.name].label if term.indicator else "" for term in terms],
    }
    note = _sum(indicator)
    if scores:
        note += " Weight x deviation: how far a part moves the score by its standard deviation on the pairs measured."
    looks = looks_of([indicator.name, *(beside or (term.name for term in terms))])
    return table_of_columns(TITLE, columns, note, longest=_LONGEST, looks=looks)


def words_table(indicator: Indicator, counts_by: Lexicon | Bag, texts: Sequence[str], labels: Bool) -> Table:
    """The table of the words that an indicator counts: of a bag the heaviest, of a lexicon those that are commonest.

    Args:
        indicator: The indicator, of kind `words`.
        counts_by: What it counts by.
        texts: Texts that did not fit it, at least one.
        labels: The label of each of these texts; that of texts that have none is 0.
    """
    found: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for text, label in zip(texts, labels.tolist(), strict=True):
        found[label].update({each.text for each in counts_by.counted(find_words(text).texts)})
    words = [word for word, _ in (found[0] + found[1]).most_common()]
    weights: dict[str, float] = {}
    note = "The {} commonest of its words in the pairs measured. Its score is the share of such words."
    if isinstance(counts_by, Bag):
        weights = _weights(counts_by, words)
        words = sorted(weights, key=lambda word: (-abs(weights[word]), word))
        note = (
            f"The {{}} heaviest of {len(words):,} words and pairs of words that it weighs and that stand in the pairs "
            f"measured. Its score is {indicator.bias:.6g} and the weights of a text's words, the fewer words it has the"
            " more of each."
        )
    told = words[:_MOST_WORDS]
    columns: dict[str, Sequence[Cell]] = {"word": told}
    if weights:
        columns["weight"] = [_weight(weights[word]) for word in told]
    for (title, mine), having in zip(_kinds(labels).items(), found, strict=False):
        columns[title] = [f"{having[word] / mine.sum():.1%}" for word in told]
    note = f"{note.format(len(told))} {_in(labels)}: the share of these pairs that have it."
    return table_of_columns(TITLE, columns, note)


def _weights(bag: Bag, commonest: Sequence[str]) -> dict[str, float]:
    """The weights of words; of those that share a bucket the commonest is named, of which its weight was learnt."""
    of_buckets = {buckets_of([word])[0]: word for word in reversed(commonest)}
    return {word: bag.weight(word) for word in of_buckets.values()}


def _sum(indicator: Indicator) -> str:
    return f"Its score is {indicator.bias:.6g}, and of each row the weight times its value."


def _weight(weight: float) -> str:
    """A weight as the watchlist has it."""
    return f"{weight:.6g}"


def _kinds(labels: Bool) -> dict[str, Bool]:
    """Which pairs are of a kind, by the kind's name: of either label, or, where no label is 1, benign."""
    return {"in label 0": ~labels, "in label 1": labels} if labels.any() else {"in benign pairs": ~labels}


def _in(labels: Bool) -> str:
    return ", ".join(_kinds(labels)).capitalize()


def _share(fired: Bool | None, mine: Bool) -> str:
    """The share of some pairs on which a term is not 0."""
    return f"{0.0 if fired is None else fired[mine].mean():.1%}"


def _in_context(example: Example | None) -> Excerpt | None:
    """The token with the text around it, its word marked."""
    if example is None:
        return None
    start, end = len(example.before), len(example.before) + len(example.token)
    return excerpt(f"{example.before}{example.token}{example.after}", [Place(start, end)], around=AROUND_CHARS)
