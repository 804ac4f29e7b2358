"""Chat templates, rendered as transformers renders them, in text that knows which characters a caller wrote."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NoReturn

from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes, pass_environment
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from scopewatch.reader.text.traced import Traced, formatted, joined, pieces_of, traced_json

__all__ = ["ChatTemplate", "TemplateError", "TemplateSyntaxError"]
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""The names by which messages and templates call a thought; transformers fills each template's in."""


class ChatTemplate:
    """One chat template.

    The environment is that of `transformers.PreTrainedTokenizerBase.apply_chat_template`, filter by filter, but that
    texts are put together by `joined`; a test compares the two on every kind of template.

    Args:
        source: The template's text.

    Raises:
        TemplateSyntaxError: The text is no template.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._compiled = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        ).from_string(source)

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], day: date) -> str:
        """What the template makes of messages.

        Args:
            messages: The messages, with `role` and `content`.
            variables: The template's other variables, such as `add_generation_prompt`, `tools` and `bos_token`.
            day: The day that `strftime_now` tells.

        Raises:
            Exception: Of any kind; a template is a program, and messages may be such as it does not expect.
        """
        with_thoughts = [_with_thought(message) for message in messages]
        return self._compiled.render({**variables, "messages": with_thoughts, "strftime_now": day.strftime})


def _with_thought(message: Mapping[str, Any]) -> Mapping[str, Any]:
    thought = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


class _CodeGenerator(CodeGenerator):
    """Writes `a ~ b` so that it keeps track."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - as Jinja calls it
        self.write("concat([str(part) for part in (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")])")


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _CodeGenerator
    concat = staticmethod(joined)
    intercepted_binops = frozenset(["%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters |= {"tojson": _tojson, "join": _join, "replace": _replace, "indent": _indent, "format": _format}
        self.globals |= {"raise_exception": _raise, "dict": _Dict(), "namespace": _Namespace}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002 - as Jinja calls it
        return formatted(left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        # A method of a text that no caller wrote, which may be given one that a caller did.
        if type(getattr(obj, "__self__", None)) is str and obj.__name__ in {"join", "replace"}:
            obj = getattr(_kept(obj.__self__), obj.__name__)
        return super().call(context, obj, *args, **kwargs)


class _Generation(Extension):
    """The tags `generation` and `endgeneration`, which mark answers for training and render what is between them."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_rendered"), [], [], body).set_lineno(line)

    def _rendered(self, caller: Macro) -> str:
        text: str = caller()
        return text


class _Dict:
    """What templates know as `dict`, without the attributes of a class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """What templates know as `namespace`, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *values = args
        for name in (attributes := dict(*values, **kwargs)):
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not store {name!r} in a namespace")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return traced_json(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    parts = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return _kept(str(d)).join(map(str, parts))


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return _kept(str(value)).replace(str(old), str(new), -1 if count is None else count)


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    indention = width if isinstance(width, str) else " " * width
    lines = joined((str(s), "\n")).splitlines()
    wanted = [line or blank if number else first for number, line in enumerate(lines)]
    return _kept("\n").join(
        joined((indention, line)) if want else line for want, line in zip(wanted, lines, strict=True)
    )


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    return formatted(str(value), kwargs or args)


def _kept(text: str) -> Traced:
    return Traced.of(text, pieces_of(text))
