"""The starter watchlists: they load, they say where each feature comes from, and they claim nothing."""

import re
from pathlib import Path

import pytest

from scopewatch.releases.table import sources
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist, load_watchlist

FOLDER = Path(__file__).parents[1] / "deploy" / "watchlists"
FILES = sorted(FOLDER.glob("*.yaml"))
EVERY = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)

# Typed from the sources, not from the files: layer of an SAE, and features of it.
ENTITIES_2B = {"res-16k": {13 - 1: [7957], 15 - 1: [11898]}}  # The authors number hidden_states: one more.
ENTITIES_9B = {"res-16k": {22 - 1: [10424], 21 - 1: [4451]}}
REFUSAL = {
    "res-65k": {11: [25312], 12: [32599], 13: [48974], 14: [64443], 15: [30001], 16: [46368], 17: [38461]},
}
GENDER = {
    "res-16k": {
        0: [4449],
        1: [4521, 11782],
        2: [5853],
        5: [2864, 11682],
        6: [4068, 7008],
        7: [7111],
        8: [6952, 9949],
        9: [6952, 15246],
        10: [3711, 6952],
        11: [3013, 4467, 11649],
        12: [6335, 11114, 11480],
        13: [192, 495, 14755],
        14: [2354, 12665],
        15: [798, 6211],
        16: [6047, 15567, 16351],
        17: [6011],
        18: [61],
        19: [13002, 13298],
        20: [7116, 12545],
        21: [1065, 4430],
        22: [1208, 3497],
    },
    "att-16k": {20: [9711], 21: [2740, 10118]},
}
TOPICS = {"res-131k": {20: [81210, 65181, 9376, 35110, 27590, 91292, 119295, 31726, 81728, 6647]}}
PUBLISHED = {
    "gemma-2-2b-it-entities": ("gemma-2-2b", ENTITIES_2B),
    "gemma-2-2b-it-refusal": ("gemma-2-2b", REFUSAL),
    "gemma-2-2b-it-gendered-words": ("gemma-2-2b", GENDER),
    "gemma-2-9b-it-entities": ("gemma-2-9b", ENTITIES_9B),
    "gemma-2-9b-it-topics": ("gemma-2-9b", TOPICS),
}
PAPERS = {"entities": "2411.14257", "refusal": "2505.23556", "words": "2403.19647", "topics": "2502.16681"}


def indicator(name: str, file: str) -> Indicator:
    return next(found for found in load_watchlist(FOLDER / file).indicators if found.name == name)


def test_every_file_is_known_here() -> None:
    """No starter watchlist escapes these tests."""
    assert sorted(PUBLISHED) == [file.stem for file in FILES]


@EVERY
def test_it_loads_under_its_own_name(file: Path) -> None:
    """A starter watchlist is valid, and is called as its file is."""
    assert file.stem == load_watchlist(file).name


@EVERY
def test_the_features_are_those_that_were_published(file: Path) -> None:
    """The features watched are exactly those of the source, in its SAEs."""
    model, sets = PUBLISHED[file.stem]
    expected = {
        f"{model}/{layer}-gemmascope-{sae}/{index}"
        for sae, layers in sets.items()
        for layer, indices in layers.items()
        for index in indices
    }

    assert expected == {str(key) for key in load_watchlist(file).features}


@EVERY
def test_every_sae_is_a_released_one_of_that_layer_and_width(file: Path) -> None:
    """Each Neuronpedia source stands for one folder of Gemma Scope, at its own layer, site and width."""
    for sae in load_watchlist(file).saes:
        size, layer, site, width = re.fullmatch(r"gemma-2-(\d+b)/(\d+)-gemmascope-(\w+)-(\d+k)", sae).groups()
        assert f"google/gemma-scope-{size}-pt-{site}" == sources()[sae].repo
        assert re.fullmatch(rf"layer_{layer}/width_{width}/average_l0_\d+", sources()[sae].path)


@pytest.mark.parametrize(
    ("sae", "declared_l0"),
    [
        # sae_entities' own table, the name of SAE-Probes' file, and refusal_sae's choice of the variant nearest to 100.
        ("gemma-2-2b/12-gemmascope-res-16k", 82),
        ("gemma-2-2b/14-gemmascope-res-16k", 84),
        ("gemma-2-9b/21-gemmascope-res-16k", 129),
        ("gemma-2-9b/20-gemmascope-res-16k", 68),
        ("gemma-2-9b/20-gemmascope-res-131k", 114),
        ("gemma-2-2b/11-gemmascope-res-65k", 70),
        ("gemma-2-2b/17-gemmascope-res-65k", 125),
    ],
)
def test_the_variant_is_the_one_the_authors_read(sae: str, declared_l0: int) -> None:
    """Of the variants of an SAE, which differ in L0, a feature's number is one of the variant that was published with it."""
    assert declared_l0 == sources()[sae].declared_l0


@EVERY
def test_every_feature_says_where_it_was_published(file: Path) -> None:
    """Each feature has a label of its own and a citation with paper, venue, arXiv number and the repository's file."""
    for found in load_watchlist(file).indicators:
        for feature in found.features:
            assert feature.label
            assert f"arXiv {PAPERS[file.stem.rpartition('-')[2]]}; " in feature.citation
            assert re.search(r"(ICLR|ICML|EMNLP) 2025", feature.citation)
            assert re.search(r"; \w+/[\w-]+ \w+/\S+", feature.citation)
            assert len(feature.citation.split("\n")) == 1


@EVERY
def test_nothing_is_claimed(file: Path) -> None:
    """No indicator is calibrated or can flag a pair, and each line with a threshold calls it a placeholder."""
    watchlist = load_watchlist(file)
    thresholds = [
        line for line in file.read_text(encoding="utf-8").splitlines() if line.strip().startswith("threshold:")
    ]

    assert {(False, "info", None)} == {(i.calibrated, i.severity, i.probability) for i in watchlist.indicators}
    assert (
        len(watchlist.indicators) == len(thresholds) == file.read_text(encoding="utf-8").count("card: uncalibrated\n")
    )
    assert all("# a placeholder" in line for line in thresholds)


@EVERY
def test_the_reader_is_the_one_the_file_is_named_after(file: Path) -> None:
    """The reader is the instruction-tuned model of the file's name, of the size its SAEs were made for."""
    watchlist: Watchlist = load_watchlist(file)
    size = re.match(r"gemma-2-\d+b", file.stem)

    assert size
    assert f"google/{size[0]}-it" == watchlist.reader.id
    assert {size[0]} == {key.sae.partition("/")[0] for key in watchlist.features}


@pytest.mark.parametrize(
    ("file", "name", "feature"),
    [
        ("gemma-2-2b-it-entities.yaml", "known_entity", 7957),
        ("gemma-2-2b-it-entities.yaml", "unknown_entity", 11898),
        ("gemma-2-9b-it-entities.yaml", "known_entity", 10424),
        ("gemma-2-9b-it-entities.yaml", "unknown_entity", 4451),
        ("gemma-2-9b-it-topics.yaml", "side_effects", 9376),
        ("gemma-2-9b-it-topics.yaml", "public_health", 35110),
        ("gemma-2-9b-it-topics.yaml", "clinical_trials", 27590),
        ("gemma-2-9b-it-topics.yaml", "mental_health", 91292),
        ("gemma-2-9b-it-topics.yaml", "blood_pressure", 119295),
        ("gemma-2-9b-it-topics.yaml", "human_rights", 65181),
        ("gemma-2-9b-it-topics.yaml", "social_security", 6647),
        ("gemma-2-9b-it-topics.yaml", "conspiracy_theories", 31726),
        ("gemma-2-9b-it-topics.yaml", "political_parties", 81728),
        ("gemma-2-9b-it-topics.yaml", "women", 81210),
    ],
)
def test_an_indicator_of_one_feature_has_the_one_it_is_named_after(file: str, name: str, feature: int) -> None:
    """Known is not swapped with unknown, nor one topic with another."""
    assert [feature] == [term.key.index for term in indicator(name, file).features]


def test_feminine_and_masculine_are_not_swapped() -> None:
    """The feature sets of the two genders, and of pronouns of either, are those that the authors' notes make."""
    masculine = {4449, 4521, 5853, 11682, 4467, 6335, 14755, 12665, 13298, 7116, 10118, 1065, 1208}
    found = {
        name: {str(term.key) for term in indicator(name, "gemma-2-2b-it-gendered-words.yaml").features}
        for name in ("masculine_words", "gendered_pronouns", "feminine_words")
    }

    # 6952 is a number of three SAEs: masculine in layer 10, either in layer 8, feminine in layer 9.
    assert masculine | {6952} == {int(feature.rpartition("/")[2]) for feature in found["masculine_words"]}
    assert {f"gemma-2-2b/{layer}-gemmascope-res-16k/6952" for layer in (8, 9, 10)} == {
        feature for features in found.values() for feature in features if feature.endswith("/6952")
    }
    assert "gemma-2-2b/10-gemmascope-res-16k/6952" in found["masculine_words"]
    assert "gemma-2-2b/9-gemmascope-res-16k/6952" in found["feminine_words"]
    assert {7008, 6952, 11480, 6211, 15567} == {
        int(feature.rpartition("/")[2]) for feature in found["gendered_pronouns"]
    }


def test_the_readme_lists_every_file_with_its_number_of_features() -> None:
    """The table beside the files names each of them and counts its features and SAEs rightly."""
    rows = dict(
        re.findall(r"^\| `([\w.-]+\.yaml)` \|(.*)\|$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    )

    assert {file.name for file in FILES} == set(rows)
    for file in FILES:
        features = load_watchlist(file).features
        *_, count, saes = rows[file.name].split("|")
        assert len(features) == int(count)
        assert len({key.sae for key in features}) == int(saes.split(" of ")[0])
