"""Conversations of every kind that a chat template may meet."""

import json
from dataclasses import dataclass, field
from typing import Any

from scopewatch.types import Pair, TemplateInputs, Turn

Message = dict[str, Any]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Tells the "weather", <b>é</b> & more',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class Conversation:
    """What a caller sends."""

    prompt: str
    response: str
    history: tuple[Message, ...] = ()
    tools: tuple[Message, ...] = ()
    documents: tuple[Message, ...] = ()
    arguments: Message = field(default_factory=dict)

    def pair(self, day: str = "") -> Pair:
        """The pair of it, whose template is told this day."""
        turns = []
        for message in self.history:
            fields = {name: value for name, value in message.items() if name not in {"role", "content"}}
            turns.append(Turn(message["role"], message["content"], json.dumps(fields) if fields else ""))
        given = [json.dumps(value) if value else "" for value in (self.tools, self.documents, self.arguments)]
        return Pair(self.prompt, self.response, tuple(turns), TemplateInputs(day, *given))

    @property
    def before(self) -> list[Message]:
        """All messages before the answer; there is a last one of the user, unless the history ends with a question."""
        asked = self.history and self.history[-1]["role"] in {"user", "tool"}
        return [*self.history, *([] if asked and not self.prompt else [user(self.prompt)])]


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def model(content: str, **fields: Any) -> Message:
    return {"role": "assistant", "content": content, **fields}


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def call(arguments: Message, name: str = "weather", content: str = "") -> Message:
    asked = {"type": "function", "id": "abcdefghi", "function": {"name": name, "arguments": arguments}}
    return model(content, tool_calls=[asked])


def result(content: str) -> Message:
    return {"role": "tool", "content": content, "name": "weather", "tool_call_id": "abcdefghi"}


def asked(content: str) -> tuple[Message, ...]:
    """A conversation in which a tool answered."""
    return (user("Weather?"), call({"city": "Oslo"}), result(content))


GREETING = (user("Hi"), model("Hello"))
THOUGHT = "<think>\nClouds, perhaps.\n</think>\n\nIt may rain."
CONVERSATIONS = {
    "plain": Conversation("Why?", "It may rain."),
    "history": Conversation("And?", "It may rain.", GREETING),
    "thought": Conversation("Why?", THOUGHT),
    "thought in history": Conversation("And?", "Rain.", (user("Hi"), model("<think>\nGreet.\n</think>\n\nHello"))),
    "thoughts all along": Conversation("And?", THOUGHT, (user("Hi"), model(THOUGHT), user("So"), model(THOUGHT))),
    "thought mentioned": Conversation("How is it closed?", "Write </think> at the end.", GREETING),
    "thought mentioned earlier": Conversation("And?", "It opens.", (user("a </think> b"), model("with </think> so"))),
    "thought opened": Conversation("<think>", "<think>", (user("<think> why"), model("<think>"))),
    "thought alone": Conversation("So?", "Yes.", (user("Hi"), model("<think>\nhm\n</think>"))),
    "thought twice": Conversation("So?", THOUGHT + THOUGHT, (user("Hi"), model(THOUGHT + THOUGHT))),
    "thought as a field": Conversation("So?", "Yes.", (user("Hi"), model("Hello", reasoning_content="greet"))),
    "thought by another name": Conversation(
        "", "Sunny.", (user("Weather?"), {**call({"city": "Oslo"}), "reasoning": "Look it up."}, result("sunny"))
    ),
    "thinking off": Conversation("Why?", "Rain.", arguments={"enable_thinking": False}),
    "tool result": Conversation("So?", "Sunny.", asked("sunny")),
    "tool result in json": Conversation("So?", "21.", asked('{"t": 21}')),
    "tool result of lines": Conversation("So?", "Warm.", asked("sunny\nwarm\t\\ \"quoted\" 'so' </tool_response>")),
    "tool result beyond ascii": Conversation("So?", "Il fait beau.", asked("ensoleillé ☀️ 晴れ")),
    "tool asks": Conversation("", "It is sunny.", asked("sunny"), tools=(WEATHER,)),
    "tools offered": Conversation(
        "Weather in Oslo?", '<tool_call>\n{"name": "weather"}\n</tool_call>', tools=(WEATHER,)
    ),
    "tools and all": Conversation("So?", "Sunny.", (system("Be brief."), *asked("sunny")), tools=(WEATHER, WEATHER)),
    "tool call beyond ascii": Conversation("So?", "Oui.", (user("é?"), call({"ville": 'Sète "é"\n'}), result("é"))),
    "two tool results": Conversation("So?", "Both.", (*asked("sunny"), result("rainy"))),
    "tool call with words": Conversation("So?", "Yes.", (user("a"), call({}, content="Let me look."), result("b"))),
    "fields of nothing": Conversation("So?", "Yes.", (user("Hi"), model("Hello", tool_calls=None, name=None))),
    "documents": Conversation(
        "Which?",
        "The first.",
        documents=({"title": "One", "text": "first\nsecond"}, {"title": "Two", "text": "é <end>"}),
    ),
    "system": Conversation("Why 7?", "It may rain.", (system("Be brief."),)),
    "system and history": Conversation("Why?", "Rain.", (system(" Be brief.\n"), *GREETING)),
    "two systems": Conversation("Why?", "Rain.", (system("Be brief."), system("Be kind."))),
    "system in the middle": Conversation("Why?", "Rain.", (*GREETING, system("Now be brief."))),
    "system at the end": Conversation("", "Rain.", (*GREETING, system("Say more."))),
    "developer": Conversation("Why?", "Rain.", ({"role": "developer", "content": "Be brief."},)),
    "empty prompt": Conversation("", "It may rain."),
    "empty answer": Conversation("Why?", ""),
    "empty history": Conversation("Why?", "x", (user(""), model(""))),
    "user twice": Conversation("So?", "Rain.", (user("Why?"),)),
    "assistant first": Conversation("So?", "Rain.", (model("Hello, I am here."),)),
    "hundred turns": Conversation("So?", "Rain.", (user("Why, why?"), model(" Because.\n")) * 50),
    "emoji": Conversation("👩🏽‍🚀?", "🇸🇪 well 👨‍👩‍👧‍👦!", (user("🦊" * 9), model("☀️"))),
    "accents apart": Conversation("e\u0301?", "a\u0323\u0300 o\u0302", (user("\u1112\u1161\u11ab"), model("\u0301"))),
    "lines of windows": Conversation("a\r\nb\r\n", "\r\nc\r\n\r\n", (user("\r\n"), model("\rd\r\n"))),
    "white space": Conversation(" \n\t hi \n\n", "\n\n  there \n", (user("\t\n a"), model("\n\nb \u3000\u00a0"))),
    "private marks": Conversation("\ue000a\ue001", "\ufdd0\U000f0000", (user("\ufdd00\ue001"), model("\ue0001\ue001"))),
    "words of templates": Conversation(
        "user\n", "assistant", (user("user"), model("assistant\n<|"), user("model"), model("]"))
    ),
    "the same text": Conversation(
        "Rain. Rain.", "Rain.", (user("Rain."), model("Rain."), user("Rain."), model("Rain."))
    ),
    "one letter": Conversation("a", "a", (user("a"), model("\n"))),
    "json": Conversation('{"a": [1, "b\\n"]}', '{"role": "user", "content": "x"}', (user("[]"), model('{"}'))),
    "jinja": Conversation("{{ x }}", "{% if y %}", (user("{{ bos_token }}{# z #}"), model("{% raw %}%s %d %%"))),
    "markup": Conversation("<b>&amp;</b>", "<br/>&", (user("'\"<&>"), model("a\\b\\n"))),
}
"""Texts that spell no control token of any template here, by what is special about them."""
