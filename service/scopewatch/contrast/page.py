"""A contrast in words and tables, for the terminal and for a page."""

from collections.abc import Sequence

from scopewatch.contrast.designs import LEAST
from scopewatch.contrast.results import Contrast, Corpus, Difference
from scopewatch.pairs.examples import Example
from scopewatch.report.page import Number, html_page
from scopewatch.report.tables import Cell, Table, table_as_text
from scopewatch.verdicts import LABEL_NOTE

_MEANING = {
    "auroc": "AUROC: the probability that a random group of pairs of B has a higher value than one of A; 0.5 is none.",
    "rank_biserial": "Rank-biserial correlation of the paired differences: 1 if the feature only rises from A to B, -1 "
    "if it only falls; 0 is none.",
}
_LONGEST_CELL = 120


def as_text(found: Contrast, a: str, b: str) -> str:
    """The contrast in words and tables for a terminal; `a` and `b` are what the corpora are called."""
    return "\n\n".join([*map(table_as_text, _tables(found, a, b)), "\n".join(_sentences(found))])


def as_page(found: Contrast, a: str, b: str) -> str:
    """The contrast as one HTML page; `a` and `b` are what the corpora are called."""
    numbers = [
        Number("features that differ", f"{found.differing:,}", f"of {found.tested:,} tested"),
        Number("false discovery rate", f"{found.fdr:g}"),
        Number("length", f"{found.length_auroc:.3f}", "AUROC of the number of tokens"),
    ]
    return html_page(f"{a} and {b}", _sentences(found), _tables(found, a, b), [], numbers)


def _sentences(found: Contrast) -> list[str]:
    rare = (
        f"differ in {LEAST} groups"
        if found.effect == "rank_biserial"
        else f"fire in so many groups that {LEAST} of the smaller corpus are to be expected"
    )
    sentences = [
        f"{found.pooling} over the {found.segment}, {found.sae} ({found.hookpoint}) of {found.reader}.",
        f"{found.tested:,} of {found.d_sae:,} features were tested: those that {rare}.",
    ]
    if found.differing:
        sentences += [f"{found.differing:,} differ at a false discovery rate of {found.fdr:g}.", _MEANING[found.effect]]
    else:
        sentences.append(f"Nothing differs: no feature passes at a false discovery rate of {found.fdr:g}.")
    sentences += found.tally.sentences
    if found.lengths_differ:
        sentences.append(_length_warning(found))
    if any(up.label_source.startswith("neuronpedia") for up in (*found.up_in_a, *found.up_in_b)):
        sentences.append(LABEL_NOTE)
    return sentences


def _length_warning(found: Contrast) -> str:
    remedy = "" if found.pooling == "mean" else ", and a longer text fires more features; compare with --pooling mean"
    return (
        f"Warning: the corpora differ in length ({found.a.mean_tokens:.1f} and {found.b.mean_tokens:.1f} tokens, "
        f"AUROC {found.length_auroc:.2f}){remedy}."
    )


def _tables(found: Contrast, a: str, b: str) -> list[Table]:
    columns = ("", "file", "pairs", "groups", "tokens of a pair", "truncated", "left out")
    corpora = Table("Corpora", columns, [_corpus("A", a, found.a), _corpus("B", b, found.b)])
    directions = ((f"Up in B ({b})", found.up_in_b), (f"Up in A ({a})", found.up_in_a))
    tables = [table for title, ups in directions if ups for table in _features(title, ups)]
    return [corpora, *tables]


def _corpus(name: str, file: str, corpus: Corpus) -> tuple[str, str, int, int, float, int, int]:
    return name, file, corpus.pairs, corpus.groups, corpus.mean_tokens, corpus.truncated, corpus.left_out


def _features(title: str, ups: Sequence[Difference]) -> list[Table]:
    measured = ("effect", "low", "high", "q", "groups", "mean A", "mean B", "fires in A", "fires in B")
    columns = ("feature", *measured, "label")
    rows = [(up.feature, *_measured(up), up.label) for up in ups]
    examples = [(up.feature, example.id, example.activation, _marked(example)) for up in ups for example in up.examples]
    return [
        Table(title, columns, rows, longest=_LONGEST_CELL),
        Table("Where they fire", ("feature", "id", "activation", "text"), examples, longest=_LONGEST_CELL),
    ]


def _measured(up: Difference) -> tuple[Cell, ...]:
    effect = (up.effect.value, up.effect.low, up.effect.high)
    return (*effect, f"{up.q:.1e}", up.groups, up.mean_a, up.mean_b, f"{up.share_a:.1%}", f"{up.share_b:.1%}")


def _marked(example: Example) -> str:
    """The text around the token, with the token between quotation marks."""
    token = example.token.lstrip()
    space = example.token[: len(example.token) - len(token)]
    return f"{example.before}{space}«{token}»{example.after}"
