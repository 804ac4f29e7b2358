"""Where a reader and an SAE are to be found: as a watchlist or a command names them, and once they are found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from scopewatch.errors import ReaderError
from scopewatch.files import expanded
from scopewatch.identity import Relation
from scopewatch.known_readers.table import KNOWN, known

NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
"""What a watchlist, an indicator or an SAE may be called."""
SOURCE = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}/[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""`model/source`, as Neuronpedia names the SAEs that have pages there."""
Name = Annotated[str, Field(pattern=NAME)]
SAE_WEIGHTS = (
    *("params.npz", "params.safetensors", "sae_weights.safetensors", "sae.safetensors", "ae.pt"),
    "checkpoints/final.safetensors",
)
"""What publishers call the weights of an SAE; its folder may hold other arrays beside them."""
SAE_SETTINGS = ("config.json", "cfg.json", "hyperparams.json")
"""What publishers call the settings that lie beside the weights."""


class Strict(BaseModel):
    """A part of a watchlist file: immutable, with no other keys than its own, and with no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, strict=True)


Item = TypeVar("Item")
Several = Annotated[tuple[Item, ...], Field(strict=False)]
"""What a file has as a list."""


_TAKEN = frozenset(
    {
        *("messages", "conversation", "conversations", "tools", "documents", "chat_template", "tokenizer_kwargs"),
        *("add_generation_prompt", "continue_final_message", "tokenize", "padding", "truncation", "max_length"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "strftime_now", "raise_exception"),
        # What jinja2 itself gives a template.
        *("range", "dict", "lipsum", "cycler", "joiner", "namespace", "loop", "self", "caller", "varargs", "kwargs"),
    }
)
TODAY = "today"
"""In place of a day: what the clock says."""


def today() -> str:
    """The day by the clock, in UTC, `YYYY-MM-DD`."""
    return datetime.now(UTC).date().isoformat()


def is_day(text: str) -> bool:
    """Whether a text is a day of the calendar, `YYYY-MM-DD`."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def is_taken(argument: str) -> bool:
    """Whether a chat template's argument is one that whoever renders it gives."""
    return argument in _TAKEN or argument.endswith("_token")


class Rendering(Strict):
    """How a conversation becomes what the reader reads; a request's own `template_inputs` win."""

    date: str = "2024-07-26"
    """The day that a chat template is told it is; `today` follows the clock, and scores with it."""
    tools: Several[dict[str, Any]] = ()
    """The tools that the model is offered, as the chat template takes them."""
    documents: Several[dict[str, Any]] = ()
    """The documents that the model is given, as the chat template takes them."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Other arguments of the chat template, such as `enable_thinking`."""

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        if value != TODAY and not is_day(value):
            raise ValueError("is not a day of the calendar; write YYYY-MM-DD, or today")
        return value

    @field_validator("arguments")
    @classmethod
    def _are_free(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(name for name in value if is_taken(name)):
            raise ValueError(f"must not hold {', '.join(taken)}; it is given otherwise")
        return value

    special_tokens: Literal["text", "parse"] = "text"
    """Whether a special token written out in a caller's text is text, or the token as a serving engine may take it."""
    fold_system: bool = True
    """Whether a system message is folded into the next user message where the chat template refuses it."""
    bos: Literal["files", "always", "never"] = "files"
    """Whether BOS comes first: as tokenizer and chat template say, or whatever they say."""
    separator: str = Field("\n\n", max_length=64)
    """What stands between the texts where the tokenizer has no chat template."""


class ReaderSource(Rendering):
    """Where a reader is, a directory, a repository on the Hugging Face hub or a known reader, and how it is given
    conversations.
    """

    path: str = ""
    """Directory; in a watchlist, relative to the watchlist."""
    known: str = ""
    """Name of a known reader, as `scopewatch reader list` shows it."""
    id: str = ""
    """`owner/name` on the Hugging Face hub."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty for the main branch."""
    relation: Annotated[Relation, Field(strict=False)] = Relation.READER_MODEL

    @classmethod
    def named(cls, text: str) -> Self:
        """The reader in the directory of this name; where there is none, the known reader of this name, or the one of
        this hub id if the text looks like one.
        """
        directory = expanded(text)
        if text in KNOWN and not directory.exists():
            return cls(known=text)
        if not directory.exists() and text.count("/") == 1 and not text.startswith((".", "~", "/")):
            return cls(id=text)
        return cls(path=str(directory))

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(map(bool, (self.path, self.known, self.id))) != 1:
            raise ValueError(
                "give one of path (a directory), id (a hub id) and known (a name that `scopewatch reader list` shows)"
            )
        if self.revision and not self.id:
            raise ValueError("a revision belongs to a hub id")
        return self

    @field_validator("known")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            if value:
                known(value)
        except ReaderError as error:
            raise ValueError(str(error)) from None
        return value

    def revision_in(self, directory: Path) -> str:
        """What of the reader lies in its directory: a commit on the hub, or the release of a package; else empty."""
        if self.known:
            return KNOWN[self.known].release
        # The cache names a snapshot's folder by its commit.
        return directory.name if self.id else ""

    @property
    def name(self) -> str:
        """The reader's name for people: its hub id, what it is known by, or the name of its directory."""
        return self.id or self.known or Path(self.path).resolve().name

    @property
    def rendering(self) -> Rendering:
        """How conversations become what the reader reads, wherever the reader is."""
        return Rendering(**{name: getattr(self, name) for name in Rendering.model_fields})


class SaeSource(Strict):
    """Where an SAE is: a path, a hub id, a SAELens release and id, or a Neuronpedia source."""

    path: str = ""
    """Folder or weights file as published, or a watch pack; relative to the watchlist."""
    id: str = ""
    """`owner/name/path` on the Hugging Face hub; with `release`, the SAE's id in it."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty for the main branch."""
    release: str = ""
    """SAELens release."""
    neuronpedia: str = Field("", pattern=rf"^({SOURCE})?$")
    """`model/source`; beside path or id it only says where its features have pages."""
    hookpoint: str = ""
    """Where it reads, for instance layers.20.resid_post; empty for where its files and folders say."""
    norm_factor: float | None = Field(None, gt=0, allow_inf_nan=False)
    """What activations are multiplied by, where the SAE asks for such a factor and its files lack it."""
    k: int | None = Field(None, ge=1)
    """Features that fire per token, where a TopK SAE's files do not say."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if not (self.path or self.id or self.neuronpedia) or (self.path and self.id):
            raise ValueError("give one of path, id (a hub id, or with release a SAELens id) and neuronpedia")
        if self.release and not self.id:
            raise ValueError("a release needs the id of an SAE in it")
        if self.revision and self.path:
            raise ValueError("a revision belongs to a hub id, not to a path")
        return self

    @property
    def name(self) -> str:
        """The SAE's name for people, as the source gives it."""
        return self.path or (f"{self.release}:{self.id}" if self.release else self.id) or self.neuronpedia


@dataclass(frozen=True, slots=True)
class FoundSae:
    """An SAE whose files are on this machine, with what its name and whoever named it say of it."""

    path: Path
    """Its folder or weights file, or a watch pack."""
    norm_factor: float | None = None
    """What activations are multiplied by: as the source says, else as SAELens' list of releases does."""
    k: int | None = None
    """Features that fire per token, as the source says."""
    hookpoint: str = ""
    """Where it reads, as the source says; empty for where its files and folders say."""
    neuronpedia: str = ""
    """`model/source` of its pages on Neuronpedia; empty if it has none."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Hub repository (`repo`) and commit (`revision`); empty for local files."""

    @classmethod
    def of(cls, sae: "FoundSae | Path") -> "FoundSae":
        """This SAE, or the one at a path, of which nothing is said."""
        return sae if isinstance(sae, FoundSae) else cls(sae)
