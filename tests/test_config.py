"""Settings: where they come from, and what is said of a wrong one."""

import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest

from scopewatch.config import BUNDLED_WATCHLIST, Config, load_config
from scopewatch.errors import ConfigError

SECRET, OTHER_SECRET = "hunter2", "hunter3"


def complaint(flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(flags, environ or {})
    return str(caught.value).split("; ")


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        pytest.param({}, {}, 1024, id="default"),
        pytest.param({}, {"SCOPEWATCH_MAX_TOKENS": "512"}, 512, id="environment beats default"),
        pytest.param({"max_tokens": "256"}, {"SCOPEWATCH_MAX_TOKENS": "512"}, 256, id="flag beats environment"),
        pytest.param({"max_tokens": "256"}, {"SCOPEWATCH_MAX_TOKENS": "rubbish"}, 256, id="flag hides environment"),
        pytest.param({}, {"MAX_TOKENS": "1", "scopewatch_max_tokens": "1"}, 1024, id="other variables"),
    ],
)
def test_flags_beat_the_environment_beats_defaults(
    flags: dict[str, str], environ: dict[str, str], expected: int
) -> None:
    """A setting is taken from its flag, else from its variable, else from its default."""
    assert load_config(flags, environ).max_tokens == expected


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an explicit environment the process's own counts."""
    monkeypatch.setenv("SCOPEWATCH_MAX_LABELS", "3")
    assert load_config().max_labels == 3


def test_every_setting_has_a_variable() -> None:
    """Each setting can be given as SCOPEWATCH_ and its name, as text, and means the same as its value."""
    given = Config(
        watchlist=(Path("a.yaml"), Path("b.yaml")),
        labels="labels.db",
        reader_dir="readers",
        pack_dir="packs",
        grpc_address="0.0.0.0:1",
        metrics_address="0.0.0.0:2",
        reflection=True,
        device="cuda:1",
        dtype="bfloat16",
        allow_download=True,
        fused="off",
        attention="packed_flex",
        torch_threads=3,
        graph_tokens=33,
        max_tokens=17,
        max_batch_tokens=18,
        max_windows=2,
        max_queue_tokens=19,
        max_message_bytes=1025,
        max_text_chars=20,
        max_reply_bytes=65537,
        max_batch_items=21,
        max_labels=22,
        max_label_chars=23,
        max_history_turns=24,
        max_evidence=25,
        max_feature_series=26,
        prefix_cache_bytes=1 << 20,
        cache_bytes=27,
        redis_url="redis://here",
        redis_password=OTHER_SECRET,
        redis_mode="sentinel",
        redis_sentinel_service="them",
        redis_timeout_s=0.5,
        cache_ttl_s=28,
        cache_secret=SECRET,
        drain_delay_s=1.5,
        drain_grace_s=2.5,
        log_level="debug",
        log_format="text",
        strict_cards=True,
        health_address="0.0.0.0:3",
        insecure=True,
        tls_cert="cert.pem",
        tls_key="key.pem",
        tls_client_ca="ca.pem",
        roles="roles.yaml",
        audit_dir="audit",
        audit_days=29,
        audit_text="all",
        text_days=7,
        log_pass_share=0.25,
        watch_files_s=1.25,
        shadow=(Path("c.yaml"),),
        shadow_share=0.75,
        round_scores=0.125,
        max_calls=30,
        max_calls_bytes=2048,
        max_connection_calls=31,
        max_connection_age_s=32.5,
        call_read_s=3.5,
        stall_s=4.5,
        explain_whole=True,
        max_explanations=5,
        watch_address="127.0.0.1:4",
        canaries="canaries.json",
        canary_s=60.5,
        otlp_endpoint="http://collector:4318",
        trace_share=0.5,
    )
    assert given.model_fields_set == set(Config.model_fields)
    written = {name: str(value) for name, value in given}
    written |= {"watchlist": "a.yaml:b.yaml", "shadow": "c.yaml", "redis_url": "redis://here"}
    written |= {"cache_secret": SECRET, "redis_password": OTHER_SECRET}
    assert load_config({}, {f"SCOPEWATCH_{name.upper()}": value for name, value in written.items()}) == given


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a.yaml", ["a.yaml"]), ("a.yaml:/b/c.yaml", ["a.yaml", "/b/c.yaml"]), ("a.yaml::b.yaml:", ["a.yaml", "b.yaml"])],
)
def test_the_variable_of_watchlists_is_a_search_path(value: str, expected: list[str]) -> None:
    """Several watchlists are split by a colon, as in PATH; empty parts stand for nothing."""
    assert [str(file) for file in load_config({}, {"SCOPEWATCH_WATCHLIST": value}).watchlist] == expected


def test_no_watchlist_at_all_is_refused() -> None:
    """An empty variable is a mistake, not the bundled watchlist and not the current folder."""
    assert complaint(environ={"SCOPEWATCH_WATCHLIST": ""}) == [
        "SCOPEWATCH_WATCHLIST: Tuple should have at least 1 item after validation, not 0"
    ]
    assert load_config({}, {}).watchlist == (BUNDLED_WATCHLIST,)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("SCOPEWATCH_MAX_TOKNES", "no such setting; did you mean SCOPEWATCH_MAX_TOKENS?"),
        ("SCOPEWATCH_REDIS_URI", "no such setting; did you mean SCOPEWATCH_REDIS_URL?"),
        (
            "SCOPEWATCH_TORCH_COMPILE",
            "is no setting any more: leave it out, the reader's layers run in few kernels without it (setting fused)",
        ),
        ("SCOPEWATCH_XYZZY", "no such setting"),
        ("SCOPEWATCH_", "no such setting"),
    ],
)
def test_a_misspelt_variable_is_refused(variable: str, said: str) -> None:
    """A variable of ours that names no setting is refused, with the nearest name if there is one."""
    assert "; ".join(complaint(environ={variable: "1"})) == f"{variable}: {said}"


@pytest.mark.parametrize("service", ["", "REDIS_", "HEADLESS_V2_"])
@pytest.mark.parametrize("address", ["10.43.0.7", "fd00:10:96::c"])
def test_what_kubernetes_says_of_services_is_no_setting(service: str, address: str) -> None:
    """Pods beside a Service named `scopewatch`, or `scopewatch-redis`, start with the variables that it puts there."""
    host = f"[{address}]" if ":" in address else address
    links = {
        "SERVICE_HOST": address,
        "SERVICE_PORT": "50051",
        "SERVICE_PORT_GRPC": "50051",
        "SERVICE_PORT_GRPC_WEB": "50051",
        "PORT": f"tcp://{host}:50051",
        "PORT_50051_TCP": f"tcp://{host}:50051",
        "PORT_50051_TCP_PROTO": "tcp",
        "PORT_50051_TCP_PORT": "50051",
        "PORT_50051_TCP_ADDR": address,
        "PORT_53_UDP": f"udp://{host}:53",
    }
    assert load_config({}, {f"SCOPEWATCH_{service}{name}": value for name, value in links.items()}) == Config()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SCOPEWATCH_PORT", "50051"),
        ("SCOPEWATCH_GRPC_PORT", "50051"),
        ("SCOPEWATCH_PORT", "http://10.0.0.1:50051"),
        ("SCOPEWATCH_REDIS_PORT", "6379"),
        ("SCOPEWATCH_SERVICE_HOST", "scopewatch.example"),
        ("SCOPEWATCH_SERVICE_PORT", "50051/tcp"),
        ("SCOPEWATCH_PORT_GRPC", "tcp://10.0.0.1:50051"),
        ("SCOPEWATCH_PORT_50051_TCP_NAME", "tcp"),
        ("SCOPEWATCH_REDIS_ADDR", "10.0.0.1"),
        ("SCOPEWATCH_MAX_TOKENSSERVICE_HOST", "10.0.0.1"),
    ],
)
def test_what_only_looks_like_a_service_is_refused(variable: str, value: str) -> None:
    """A variable is let through as Kubernetes' own only if its name and its value are of that form."""
    assert complaint(environ={variable: value})[0].startswith(f"{variable}: no such setting")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", "many"),
        ("max_tokens", "15"),
        ("max_tokens", ""),
        ("max_tokens", "1e3"),
        ("torch_threads", "-1"),
        ("graph_tokens", "-2"),
        ("max_message_bytes", str(64 << 20)),
        ("redis_timeout_s", "0"),
        ("redis_timeout_s", "6"),
        ("redis_timeout_s", "nan"),
        ("drain_delay_s", "inf"),
        ("drain_grace_s", "-1"),
        ("cache_ttl_s", "0"),
        ("dtype", "float16"),
        ("redis_mode", "Standalone"),
        ("log_level", "trace"),
        ("log_format", "xml"),
        ("reflection", "maybe"),
    ],
)
def test_a_wrong_value_is_named_with_its_source(name: str, value: str) -> None:
    """A wrong value is refused under the name it was given by: its variable, or its flag."""
    variable, flag = f"SCOPEWATCH_{name.upper()}", "--" + name.replace("_", "-")
    assert [said.split(":")[0] for said in complaint(environ={variable: value})] == [variable]
    assert [said.split(":")[0] for said in complaint({name: value}, {variable: value})] == [flag]


def test_every_mistake_is_named_in_one_go() -> None:
    """Wrong values and misspelt variables of all sources come in one message."""
    said = complaint(
        {"max_labels": "x"}, {"SCOPEWATCH_REDIS_MODE": "x", "SCOPEWATCH_PORT": "1", "SCOPEWATCH_DTYPE": "x"}
    )
    assert sorted(line.split(":")[0] for line in said) == [
        "--max-labels",
        "SCOPEWATCH_DTYPE",
        "SCOPEWATCH_PORT",
        "SCOPEWATCH_REDIS_MODE",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_tokens": 5000, "max_batch_tokens": 4096}, "settings: max_batch_tokens must be at least max_tokens"),
        ({"max_tokens": 5000, "max_queue_tokens": 4999}, "settings: max_queue_tokens must be at least max_tokens"),
        (
            {"max_queue_tokens": 4000, "max_batch_tokens": 4096},
            "settings: max_queue_tokens must be at least max_batch_tokens",
        ),
    ],
    ids=["batch", "queue and pair", "queue and batch"],
)
def test_limits_that_contradict_each_other_are_refused(flags: dict[str, int], said: str) -> None:
    """A full pair must fit a batch and a full batch the queue."""
    (line,) = complaint(flags)
    assert line[: len(said)] == said


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "1"])
def test_words_that_mean_true(word: str) -> None:
    """A boolean can be switched on by the usual words."""
    assert load_config({}, {"SCOPEWATCH_REFLECTION": word}).reflection is True


@pytest.mark.parametrize("word", ["false", "FALSE", "no", "off", "0"])
def test_words_that_mean_false(word: str) -> None:
    """A boolean can be switched off by the usual words."""
    assert load_config({}, {"SCOPEWATCH_ALLOW_DOWNLOAD": word}).allow_download is False


@pytest.mark.parametrize("word", ["", "2", "-1", "tru", "enabled", "none", " true"])
def test_other_words_are_no_boolean(word: str) -> None:
    """Whatever is not one of those words is refused, not taken for true because it is not empty."""
    assert [said.split(":")[0] for said in complaint(environ={"SCOPEWATCH_REFLECTION": word})] == [
        "SCOPEWATCH_REFLECTION"
    ]


def test_by_default_there_is_no_redis_and_no_secret() -> None:
    """Nothing outside the process is used, and no secret is made up, unless it is configured."""
    config = load_config({}, {})
    assert (config.redis_url.get_secret_value(), config.cache_secret.get_secret_value()) == ("", "")


def test_secrets_are_not_shown() -> None:
    """Neither the text of a configuration nor a dump of it holds a password or the cache secret."""
    config = load_config({"redis_url": f"redis://:{SECRET}@host", "cache_secret": SECRET, "redis_password": SECRET}, {})
    shown = repr(config) + str(config) + str(config.model_dump()) + config.model_dump_json()
    assert (SECRET in shown, config.cache_secret.get_secret_value()) == (False, SECRET)


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        pytest.param({"max_tokens": "x"}, {"SCOPEWATCH_CACHE_SECRET": SECRET}, id="another setting is wrong"),
        pytest.param(
            {"cache_secret": SECRET, "max_tokens": 5000, "max_batch_tokens": 4096}, {}, id="settings contradict"
        ),
        pytest.param({"cache_secret": [SECRET]}, {}, id="the secret itself is wrong"),
        pytest.param({}, {"SCOPEWATCH_REDIS_URI": f"redis://:{SECRET}@host"}, id="misspelt variable"),
    ],
)
def test_errors_do_not_show_secrets(flags: dict[str, object], environ: dict[str, str]) -> None:
    """No error, with all that a traceback prints of its causes, holds a secret."""
    with pytest.raises(ConfigError) as caught:
        load_config(flags, environ)
    assert SECRET not in "".join(traceback.format_exception_only(caught.value)) + repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("name", ["redis_url", "redis_password", "cache_secret"])
@pytest.mark.parametrize("written", [SECRET, f"{SECRET}\n", f"{SECRET}\n\n", f" {SECRET} ", "\u00e4\u2028"])
@pytest.mark.parametrize("by_flag", [True, False])
def test_a_secret_may_come_from_a_file(tmp_path: Path, name: str, written: str, by_flag: bool) -> None:
    """A flag or a variable names the file; the secret is what it holds, but for one newline at the end."""
    file = tmp_path / "secret"
    file.write_text(written, encoding="utf-8")
    given = ({f"{name}_file": str(file)}, {}) if by_flag else ({}, {f"SCOPEWATCH_{name.upper()}_FILE": str(file)})
    assert getattr(load_config(*given), name).get_secret_value() == written.removesuffix("\n")


def test_the_file_is_read_once(tmp_path: Path) -> None:
    """What a file holds later changes nothing, and it may be gone."""
    file = tmp_path / "secret"
    file.write_text(SECRET, encoding="utf-8")
    config = load_config({}, {"SCOPEWATCH_CACHE_SECRET_FILE": str(file)})
    file.unlink()
    assert config.cache_secret.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "cannot be read: No such file or directory", id="missing"),
        pytest.param(b"", "is empty, put the secret there", id="empty"),
        pytest.param(b"\n", "is empty, put the secret there", id="a newline"),
        pytest.param(b"hunter2\xff", "is no text in UTF-8", id="no text"),
    ],
)
def test_a_file_without_a_secret_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """The variable and the file are named, and nothing of what it holds; a folder is no file either."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    found = complaint({"redis_url_file": str(tmp_path)}, {"SCOPEWATCH_CACHE_SECRET_FILE": str(file)})
    assert sorted(found) == [
        f"--redis-url-file: {tmp_path}: cannot be read: Is a directory",
        f"SCOPEWATCH_CACHE_SECRET_FILE: {file}: {problem}",
    ]


@pytest.mark.parametrize(
    ("flags", "environ", "named"),
    [
        ({}, {"SCOPEWATCH_CACHE_SECRET": "", "SCOPEWATCH_CACHE_SECRET_FILE": "f"}, "SCOPEWATCH_CACHE_SECRET"),
        ({"cache_secret": SECRET}, {"SCOPEWATCH_CACHE_SECRET_FILE": "f"}, "--cache-secret"),
    ],
)
def test_a_secret_that_is_given_twice_is_refused(flags: dict[str, str], environ: dict[str, str], named: str) -> None:
    """Nobody has to know which of the two counts."""
    assert complaint(flags, environ) == [f"{named} and SCOPEWATCH_CACHE_SECRET_FILE: give one of them"]


def test_only_secrets_have_files() -> None:
    """Another setting's file is no setting, and a misspelt one of a secret is recognised."""
    assert complaint(environ={"SCOPEWATCH_LABELS_FILE": "f"})[0] == "SCOPEWATCH_LABELS_FILE: no such setting"
    assert complaint(environ={"SCOPEWATCH_CACHE_SECRETS_FILE": "f"})[1] == "did you mean SCOPEWATCH_CACHE_SECRET_FILE?"


def test_a_configuration_cannot_be_changed() -> None:
    """The record that every part was built from stays as it was read."""
    config = load_config({}, {})
    with pytest.raises(ValueError, match="frozen"):
        config.max_tokens = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "windows", "at_once"),
    [({}, 8, 32), ({"max_windows": 1}, 1, 256), ({"max_queue_tokens": 4200, "max_tokens": 2000}, 2, 1)],
    ids=["default", "one", "as many as the queue holds"],
)
def test_a_pair_of_all_windows_is_never_too_much_for_the_queue(
    settings: dict[str, int], windows: int, at_once: int
) -> None:
    """A response is read in as many windows as the queue takes, and files in as many pairs at once."""
    config = Config(**settings)

    assert (windows, at_once) == (config.windows, config.at_once)
    assert config.at_once * config.windows * config.max_tokens <= config.max_queue_tokens
