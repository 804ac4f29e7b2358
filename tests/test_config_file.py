"""The file that `--config` names, and what `scopewatch settings` says of where settings come from."""

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from scopewatch.cli import main
from scopewatch.config import FILE_LISTS, FILES, SECRET_FILES, Config, effective, load_config
from scopewatch.errors import ConfigError

NO_FILES = {
    "grpc_address",
    "metrics_address",
    "health_address",
    "watch_address",
    "device",
    "redis_sentinel_service",
    "otlp_endpoint",
}
SECRET = "hunter2"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "scopewatch.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def complaint(file: Path, environ: Mapping[str, str] | None = None, **flags: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config({"config": str(file)} | flags, environ or {})
    assert SECRET not in str(caught.value)
    return [line.removeprefix(f"{file}:") for line in str(caught.value).split("; ") if not line.startswith("did you")]


def test_the_file_is_below_the_environment_and_that_below_flags(written: Callable[[str], Path]) -> None:
    """Of three sources the flag counts, then the variable, then the file, then the default."""
    file = written("max_tokens = 100\nmax_labels = 3\nmax_evidence = 4\n")
    environ = {"SCOPEWATCH_MAX_TOKENS": "200", "SCOPEWATCH_MAX_LABELS": "5", "SCOPEWATCH_CONFIG": str(file)}
    found = effective({"max_tokens": "300"}, environ)
    config, sources = found.config, found.sources

    assert (config.max_tokens, config.max_labels, config.max_evidence, config.text_days) == (300, 5, 4, 30)
    assert sources == {
        "max_tokens": "--max-tokens",
        "max_labels": "SCOPEWATCH_MAX_LABELS",
        "max_evidence": f"{file}:3: max_evidence",
    }


def test_a_flag_names_another_file_than_the_variable(written: Callable[[str], Path], tmp_path: Path) -> None:
    """One file is read, that of the flag."""
    other = tmp_path / "other.toml"
    other.write_text("max_tokens = 100\n", encoding="utf-8")
    environ = {"SCOPEWATCH_CONFIG": str(written("max_labels = 3\n"))}
    config = load_config({"config": str(other)}, environ)

    assert (config.max_tokens, config.max_labels) == (100, 16)


def test_paths_count_from_the_folder_of_the_file(written: Callable[[str], Path], tmp_path: Path) -> None:
    """Relative paths lead to the same files wherever the process runs; `auto`, names and whole paths stay."""
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    config = load_config(
        {
            "config": str(
                written(
                    'watchlist = ["lists/a.yaml", "smollm2-135m-instruct"]\nshadow = "b.yaml"\nlabels = "labels.db"\n'
                    'reader_dir = "auto"\npack_dir = ""\naudit_dir = "/var/audit"\ncache_secret_file = "secret"\n'
                )
            )
        },
        {},
    )

    assert config.watchlist == (tmp_path / "lists/a.yaml", Path("smollm2-135m-instruct"))
    assert config.shadow == (tmp_path / "b.yaml",)
    assert (config.labels, config.audit_dir) == (str(tmp_path / "labels.db"), "/var/audit")
    assert (config.reader_dir, config.pack_dir) == ("auto", "")
    assert config.cache_secret.get_secret_value() == SECRET


def test_every_setting_that_names_a_file_is_known_as_one() -> None:
    """A setting whose value is text is either a path, which counts from the config file's folder, or listed here."""
    texts = {name for name, field in Config.model_fields.items() if field.annotation is str}

    assert texts - set(FILES) == NO_FILES
    assert set(FILES) <= texts
    assert {name for name, field in Config.model_fields.items() if "Path" in str(field.annotation)} == set(FILE_LISTS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_tokns = 5\n", ["1: max_tokns: no such setting"]),
        ("\n\n[redis]\nurl = 1\n", ["3: redis: no such setting"]),
        ("max-tokens = 5\n", ["1: max-tokens: no such setting"]),
        ("max_labels = 1\n'max_tokens' = 'many'\n", ["2: max_tokens: Input should be a valid integer, unable to parse string as an integer"]),
        ("watchlist = []\n", ["1: watchlist: Tuple should have at least 1 item after validation, not 0"]),
        ("labels = 5\n", ["1: labels: Input should be a valid string"]),
        (f"cache_secret = '{SECRET}'\n", ["1: cache_secret: no secret may stand in this file"]),
        (f"redis_url = 'redis://:{SECRET}@host'\n", ["1: redis_url: no secret may stand in this file"]),
        ("config = 'other.toml'\n", ["1: config: no such setting"]),
        ("max_tokens = 5\nmax_tokens = 6\n", None),
        ("max_tokens\n", None),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(written: Callable[[str], Path], text: str, said: list[str] | None) -> None:
    """What is wrong is said with the file, the line and the setting; what is no TOML with the place in it."""
    found = complaint(written(text))
    if said is None:
        assert "is no TOML: " in found[0]
        assert "line " in found[0]
    else:
        assert [line for line in found if not line.startswith("name the secret")] == said


def test_a_misspelt_setting_is_answered_by_what_was_meant(written: Callable[[str], Path]) -> None:
    """The nearest name is offered as the file writes it."""
    with pytest.raises(ConfigError, match=r"max-tokens: no such setting; did you mean max_tokens\?"):
        load_config({"config": str(written("max-tokens = 5\n"))}, {})


def test_mistakes_of_all_sources_come_together(written: Callable[[str], Path]) -> None:
    """One message names what is wrong in the file, in the environment and among the flags."""
    found = complaint(written("max_tokens = 1\nx = 2\n"), {"SCOPEWATCH_DTYPE": "x"}, max_labels="y")

    assert sorted(line.split(": Input")[0] for line in found) == [
        "--max-labels",
        "1: max_tokens",
        "2: x: no such setting",
        "SCOPEWATCH_DTYPE",
    ]


@pytest.mark.parametrize("content", [None, b"\xff"], ids=["missing", "no text"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    """The flag or the variable that names it is said too."""
    file = tmp_path / "no.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^SCOPEWATCH_CONFIG: {file}: (cannot be read: No such|is no TOML: )"):
        load_config({}, {"SCOPEWATCH_CONFIG": str(file)})


def test_a_secret_is_given_once_in_all_sources(written: Callable[[str], Path], tmp_path: Path) -> None:
    """A file of a secret that the config file names does not stand beside a variable with the secret."""
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    (found,) = complaint(written("cache_secret_file = 'secret'\n"), {"SCOPEWATCH_CACHE_SECRET": "x"})

    assert found.startswith("SCOPEWATCH_CACHE_SECRET and ")
    assert found.endswith("cache_secret_file: give one of them")


# The command


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["settings", *map(str, arguments)])
        assert left.value.code == code
        told = capsys.readouterr()
        return told.out + told.err

    return run


def test_settings_are_shown_with_their_source(
    shown: Callable[..., str], written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every setting has its value and where it comes from; a secret is never shown."""
    monkeypatch.setenv("SCOPEWATCH_CACHE_SECRET", SECRET)
    text = shown("--config", written("max_tokens = 100\n"), "--max-labels", 3, "--json")
    document = json.loads(text)

    assert SECRET not in text
    assert set(document) == set(Config.model_fields)
    assert document["max_tokens"]["value"] == 100
    assert document["max_tokens"]["source"].endswith("scopewatch.toml:1: max_tokens")
    assert document["max_labels"] == {"value": 3, "source": "--max-labels"}
    assert document["cache_secret"] == {"value": "**********", "source": "SCOPEWATCH_CACHE_SECRET"}
    assert document["text_days"] == {"value": 30, "source": "default"}
    assert document["redis_password"] == {"value": "", "source": "default"}


def test_what_it_prints_is_a_config_file(shown: Callable[..., str], tmp_path: Path) -> None:
    """Written to a file, the settings are read as they were, whatever letters they hold."""
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    odd = 'a"\\\u0007\u007f \u202e # é 🤷.db'
    flags = ("--labels", odd, "--watchlist", "/a.yaml", "/b c.yaml", "--reflection", "--stall-s", "2.5")
    text = shown(*flags, "--cache-secret-file", tmp_path / "secret")
    file = tmp_path / "printed.toml"
    file.write_text(text, encoding="utf-8")
    read = load_config({"config": str(file)}, {})

    assert SECRET not in text
    assert tomllib.loads(text)["labels"] == odd
    assert read == load_config(
        {"labels": str(tmp_path / odd), "watchlist": ["/a.yaml", "/b c.yaml"], "reflection": True, "stall_s": 2.5}, {}
    )


def test_only_what_was_set_is_shown_if_that_is_asked_for(shown: Callable[..., str]) -> None:
    """`--changed` leaves the defaults out."""
    assert shown("--changed", "--max-labels", 3) == "max_labels = 3  # --max-labels\n"


def test_a_wrong_setting_is_said_with_its_source(shown: Callable[..., str], written: Callable[[str], Path]) -> None:
    """The command ends with 2 and one line, as every other does."""
    file = written("max_tokens = 1\n")

    assert shown("--config", file, code=2).startswith(f"scopewatch: {file}:1: max_tokens: Input should be greater")


def test_every_command_with_settings_reads_the_file(
    written: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands other than the service take `--config` too."""
    file = written(f"labels = 'none.db'\n{next(iter(SECRET_FILES))} = 'nowhere'\n")
    with pytest.raises(SystemExit) as left:
        main(["features", "search", "word", "--config", str(file)])

    assert left.value.code == 2
    assert f"{file}:2: redis_url_file: {file.parent / 'nowhere'}: cannot be read" in capsys.readouterr().err
