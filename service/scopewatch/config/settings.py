"""The settings, their defaults and what they have to fulfil together."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from scopewatch.addresses import check_base_url, check_socket, host_and_port, is_loopback, socket_file
from scopewatch.config.folders import BUNDLED_WATCHLIST, cache_folder
from scopewatch.files import expanded

ENGINE_SETTINGS = (
    "device",
    "dtype",
    "allow_download",
    "reader_dir",
    "pack_dir",
    "fused",
    "attention",
    "torch_threads",
    "graph_tokens",
    "max_tokens",
    "max_windows",
    "max_batch_tokens",
    "prefix_cache_bytes",
)
"""Settings that decide what the engine computes and how fast; commands without a server have only these."""
FILE_LISTS = ("watchlist", "shadow")
"""Settings that name several files: variables split them as PATH does, flags take several values."""
FILES = ("labels", "canaries", "tls_cert", "tls_key", "tls_client_ca", "roles", "audit_dir", "reader_dir", "pack_dir")
"""Settings that name one file or folder; in a config file it counts from that file's folder."""


class Config(BaseModel):
    """The settings, an immutable record that is read once. Flag `--max-tokens` is variable `SCOPEWATCH_MAX_TOKENS`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    watchlist: tuple[Path, ...] = Field(
        (BUNDLED_WATCHLIST,),
        min_length=1,
        description="watchlist files, or known readers whose own are meant; the first is the default one",
    )
    strict_cards: bool = Field(
        False, description="refuse to start when a card was made with another reader, SAE, dtype or template"
    )
    canaries: str = Field(
        "",
        description="file of canary pairs made by `scopewatch canary record`; empty for those that come with a "
        "watchlist of the package, if one runs",
    )
    canary_s: float = Field(
        300.0, ge=0, description="seconds between two looks at the canary pairs; 0 for one at the start"
    )
    labels: str = Field("", description="label index made by `scopewatch features import`; empty for none")
    grpc_address: str = Field(
        "127.0.0.1:50051", description="host:port for gRPC, or unix:/path; port 0 picks a free one"
    )
    metrics_address: str = Field("127.0.0.1:9464", description="host:port for Prometheus metrics over HTTP")
    reflection: bool = Field(False, description="serve gRPC server reflection")
    health_address: str = Field(
        "",
        description="host:port of a second gRPC port that tells nothing but health, in plaintext, for probes; "
        "empty for none",
    )
    insecure: bool = Field(
        False,
        description="serve in plaintext on addresses that other machines reach",
    )
    tls_cert: str = Field("", description="PEM file, certificate chain of gRPC and metrics; empty for plaintext")
    tls_key: str = Field("", description="PEM file, private key of tls_cert")
    tls_client_ca: str = Field(
        "", description="PEM file of those who sign callers' certificates; with it every caller has to show one"
    )
    roles: str = Field("", description="file that says who may ask for what; empty lets everybody ask for everything")
    audit_dir: str = Field(
        "", description="folder of the audit log and, if texts are kept, of those; empty keeps neither"
    )
    audit_days: int = Field(0, ge=0, description="days after which a day of the audit log is deleted; 0 for never")
    audit_text: Literal["none", "flag", "all"] = Field(
        "none", description="of which scored pairs the texts are kept under audit_dir"
    )
    text_days: int = Field(30, ge=1, description="days after which texts that were kept are deleted")
    log_pass_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the pairs with verdict PASS that are logged; all others are",
    )
    watch_files_s: float = Field(
        5.0, ge=0, description="how often watchlists, roles and certificates are looked at for changes; 0 for never"
    )
    shadow: tuple[Path, ...] = Field(
        (), description="watchlist files that judge a share of the pairs beside, for metrics alone"
    )
    shadow_share: float = Field(0.1, ge=0, le=1, description="share of the pairs that shadow watchlists judge too")
    explain_whole: bool = Field(
        False,
        description="load the reader whole, with its head, so that explanations tell what it expected",
    )
    max_explanations: int = Field(16, ge=0, description="explanations that may wait or be made at once; 0 makes none")
    watch_address: str = Field(
        "",
        description="loopback host:port of a page that lists recent flags and opens their explanations; empty for none",
    )
    otlp_endpoint: str = Field(
        "",
        description="base URL of a collector that takes traces by OTLP over HTTP, such as http://collector:4318; "
        "empty makes none",
    )
    trace_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of the calls that are traced of those whose callers send no trace context; others decide "
        "themselves",
    )
    round_scores: float = Field(
        0.0, ge=0, description="scores in replies are rounded to multiples of this; 0 shows them as they are"
    )

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="reader weights: auto is float32 on a CPU, bfloat16 on a GPU"
    )
    allow_download: bool = Field(False, description="let a hub id be downloaded; otherwise only local files")
    reader_dir: str = Field(
        "auto", description="folder of known readers, see `scopewatch reader`; auto is ~/.cache/scopewatch/readers"
    )
    pack_dir: str = Field(
        "auto",
        description="folder of watch packs, the watched parts of large SAEs; empty for none, "
        "auto is ~/.cache/scopewatch/packs for SAEs above 32 MiB",
    )
    fused: Literal["auto", "off"] = Field(
        "auto",
        description="what a reader's layers do element by element: auto runs it in few kernels on a GPU where these "
        "give the same, off leaves it to torch",
    )
    attention: Literal["auto", "packed", "packed_tiles", "packed_flex"] = Field(
        "auto",
        description="the attention that a reader's layers run: auto is packed on a CPU, and on a GPU the fastest that "
        "the start shows to be right; a name takes only that kind",
    )
    torch_threads: int = Field(0, ge=0, description="CPU threads of the engine; 0 takes all cores but one")
    graph_tokens: int = Field(
        -1,
        ge=-1,
        le=65_536,
        description="tokens of the longest pass that a GPU replays as a CUDA graph; 0 for none, -1 for 2,048",
    )

    max_tokens: int = Field(1024, ge=16, description="tokens read of one pair in one pass")
    max_windows: int = Field(
        8, ge=1, le=1024, description="passes over a response that does not fit one, as many as max_queue_tokens holds"
    )
    max_batch_tokens: int = Field(
        0, ge=0, description="tokens the engine computes at once; 0: 4,096 on a CPU, what fits up to 16,384 on a GPU"
    )
    max_queue_tokens: int = Field(262_144, ge=16, description="tokens that may wait; beyond it requests are refused")
    max_message_bytes: int = Field(8 << 20, ge=1024, le=48 << 20, description="size of one request message")
    max_text_chars: int = Field(100_000, ge=1, description="code points in one text field")
    max_reply_bytes: int = Field(
        (4 << 20) - (64 << 10),
        ge=64 << 10,
        description="size of one reply message; plain gRPC clients take 4 MiB",
    )
    max_calls: int = Field(1024, ge=1, description="calls that are answered at once; beyond it calls are refused")
    max_calls_bytes: int = Field(
        64 << 20, ge=1024, description="size of the requests of all calls that are answered at once"
    )
    max_connection_calls: int = Field(256, ge=1, description="calls that one connection may have open at once")
    max_connection_age_s: float = Field(
        1800, ge=0, description="age at which a connection is asked to come again, so that load spreads; 0 for never"
    )
    call_read_s: float = Field(10.0, gt=0, description="longest that the request of a call may take to arrive")
    max_batch_items: int = Field(256, ge=1, description="pairs in one BatchScore")
    max_labels: int = Field(16, ge=0, description="entries of a request's labels")
    max_label_chars: int = Field(256, ge=1, description="code points in a label, id, role or watchlist name")
    max_history_turns: int = Field(64, ge=0, description="entries of a request's history")
    max_evidence: int = Field(16, ge=1, description="evidence spans returned per indicator")
    max_feature_series: int = Field(200, ge=0, description="features that get their own metric series")

    prefix_cache_bytes: int = Field(
        256 << 20, ge=0, description="size of what is kept of beginnings that texts share; 0 switches it off"
    )
    cache_bytes: int = Field(
        64 << 20, ge=0, description="size of the in-process cache, half of it for judgements; 0 switches it off"
    )
    redis_url: SecretStr = Field(
        SecretStr(""), description="redis:// or rediss:// URL; empty uses the in-process cache"
    )
    redis_password: SecretStr = Field(SecretStr(""), description="password of Redis, where redis_url holds none")
    redis_mode: Literal["standalone", "cluster", "sentinel"] = Field(
        "standalone", description="what redis_url points at"
    )
    redis_sentinel_service: str = Field("mymaster", description="name of the master in sentinel mode")
    redis_timeout_s: float = Field(0.075, gt=0, le=5, description="longest wait for one Redis operation")
    cache_ttl_s: int = Field(86_400, ge=1, description="life of a Redis entry, jittered by 10 percent")
    cache_secret: SecretStr = Field(
        SecretStr(""), description="HMAC secret of cache keys and values; the same on every replica"
    )

    drain_delay_s: float = Field(0.0, ge=0, description="wait between turning not-ready and refusing requests")
    drain_grace_s: float = Field(20.0, ge=0, description="time given to running requests at shutdown")
    stall_s: float = Field(
        60.0,
        gt=0,
        description="the process leaves when a batch takes ten times as long as it should, and this many seconds more",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level logged")
    log_format: Literal["json", "text"] = Field("json", description="log line format")

    @property
    def reader_folder(self) -> Path:
        """The folder of known readers.

        Raises:
            SetupError: It lies in a home that there is not.
        """
        return expanded(cache_folder("readers") if self.reader_dir == "auto" else self.reader_dir)

    @property
    def at_once(self) -> int:
        """How many pairs of a file can wait together: the queue never refuses so many, however long they are."""
        return min(256, self.max_queue_tokens // (self.max_tokens * self.windows))

    @property
    def windows(self) -> int:
        """How many passes over a response there can be: the queue takes all of them."""
        return min(self.max_windows, self.max_queue_tokens // self.max_tokens)

    @property
    def in_the_clear(self) -> tuple[str, ...]:
        """The settings of the addresses that other machines reach and that are served in plaintext."""
        names = () if self.tls_cert else ("grpc_address", "metrics_address")
        return tuple(name for name in names if not is_loopback(getattr(self, name)))

    @field_validator("grpc_address", "metrics_address", "health_address", "watch_address")
    @classmethod
    def _can_be_listened_on(cls, address: str, info: ValidationInfo) -> str:
        if info.field_name in {"health_address", "watch_address"} and not address:
            return address
        if not socket_file(address):
            host_and_port(address)
        elif info.field_name == "grpc_address":
            check_socket(address)
        else:
            raise ValueError(
                f"{address!r}: only gRPC is served on sockets; expected host:port, for instance 127.0.0.1:0"
            )
        if info.field_name == "watch_address" and not is_loopback(address):
            raise ValueError(f"{address!r}: what it shows is for this machine alone; expected 127.0.0.1:port")
        return address

    @field_validator("otlp_endpoint")
    @classmethod
    def _can_be_sent_to(cls, url: str) -> str:
        if url:
            check_base_url(url)
        return url

    @model_validator(mode="after")
    def _others_reach_it_by_tls(self) -> "Config":
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together; set both, or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca asks callers for certificates over TLS; set tls_cert and tls_key too")
        if self.in_the_clear and not self.insecure:
            name = self.in_the_clear[0]
            raise ValueError(
                f"{name} {getattr(self, name)}: other machines reach it, and it would be served in plaintext; "
                "set tls_cert and tls_key, or insecure where the network between is trusted"
            )
        return self

    @model_validator(mode="after")
    def _limits_fit_each_other(self) -> "Config":
        if 0 < self.max_batch_tokens < self.max_tokens:
            raise ValueError("max_batch_tokens must be at least max_tokens, or a full pair never fits a batch")
        if self.max_queue_tokens < self.max_tokens:
            raise ValueError("max_queue_tokens must be at least max_tokens, or a full pair is never taken")
        if self.max_queue_tokens < self.max_batch_tokens:
            raise ValueError("max_queue_tokens must be at least max_batch_tokens")
        if self.audit_text != "none" and not self.audit_dir:
            raise ValueError("audit_text needs audit_dir, the folder in which texts are kept")
        return self


SECRET_FILES = {f"{name}_file": name for name, field in Config.model_fields.items() if field.annotation is SecretStr}
"""The names by which files are given that hold secrets, and the setting of each."""
