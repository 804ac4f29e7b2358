# ruff: noqa: RUF001 - some families write full-width bars
"""Chat templates that behave as published ones do, each with a small tokenizer built as its family's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_TEXTS = (
    "The quick brown fox jumps over the lazy dog. It may rain tomorrow, perhaps.",
    "hello world, what is the answer to this question? I do not know the answer: user, assistant, system, tool.",
    '{"name": "weather", "arguments": {"city": "Oslo"}} <think>\nClouds.\n</think>\n\nInsulin lowers blood sugar.',
)


@dataclass(frozen=True)
class Template:
    """A chat template and what its tokenizer is made of."""

    source: str
    special: tuple[str, ...]
    """Special tokens."""
    ordinary: tuple[str, ...] = ()
    """Added tokens that are not special, such as those around a thought."""
    bos: str | None = None
    eos: str = ""
    pieces: Literal["bytes", "characters", "characters behind ▁", "words"] = "bytes"
    """What BPE is made of: bytes as GPT-2 writes them; characters with bytes to fall back on, whose spaces are ▁, as
    Gemma's, or with a ▁ put before a text, as Mistral's; or words with ▁ before the first, as newer conversions.
    """
    puts_bos: bool = True
    """Whether the tokenizer puts BOS before a whole text."""
    strips: tuple[str, ...] = ()
    """Tokens that take the white space behind them."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Templates by other names, such as the one for conversations with tools."""
    branches: bool = False
    """Whether it looks into the texts: what it writes then depends on them."""


_GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>")
_ALTERNATE = """{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"""

GEMMA2 = (
    """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}{% for m in messages %}"""
    + _ALTERNATE
    + """{% if m['role'] == 'assistant' %}{% set who = 'model' %}{% else %}{% set who = m['role'] %}{% endif %}
{{ '<start_of_turn>' + who + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
)
GEMMA3 = (
    """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set before = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set before = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set before = '' -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for m in rest -%}
    """
    + _ALTERNATE
    + """
    {{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + (before if loop.first else '') -}}
    {%- if m['content'] is string -%}
        {{ m['content'] | trim }}
    {%- elif m['content'] is iterable -%}
        {%- for part in m['content'] -%}
            {%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}{%- else -%}{{ part['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception('content of no kind') }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""
)
_LLAMA31 = """
{{- bos_token }}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = {DATE} %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set about = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set about = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\n' }}{%- endif %}
{{- 'Cutting Knowledge Date: December 2023\n' }}
{{- 'Today Date: ' + date_string + '\n\n' }}
{{- about }}
{{- '<|eot_id|>' }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first = messages[0]['content'] | trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception('no first user message to put the tools in') }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\nHere are functions. Answer with JSON.\n\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\n\n' }}{%- endfor %}
    {{- first + '<|eot_id|>' }}
{%- endif %}
{%- for m in messages %}
    {%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}
        {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in m %}
        {%- if not m.tool_calls | length == 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
        {%- if m.content is mapping or m.content is iterable %}{{- m.content | tojson }}{%- else %}{{- m.content }}{%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}
"""
LLAMA31 = _LLAMA31.replace("{DATE}", "'26 Jul 2024'")
LLAMA32 = _LLAMA31.replace("{DATE}", "(strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024')")
QWEN25 = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- else %}{{- 'You are a helpful assistant.' }}{%- endif %}
    {{- '\n\n# Tools\n<tools>' }}
    {%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') or (m.role == 'system' and not loop.first) or (m.role == 'assistant' and not m.tool_calls) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>' + m.role }}
        {%- if m.content %}{{- '\n' + m.content }}{%- endif %}
        {%- for call in m.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- call.name }}
            {{- '", "arguments": ' }}
            {{- call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != 'tool') %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- m.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
QWEN3 = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- '# Tools\n<tools>' }}
    {%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(asking=true, last=messages | length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.asking and m.role == 'user' and m.content is string and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
        {%- set ns.asking = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.content is string %}{%- set content = m.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (m.role == 'user') or (m.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif m.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if m.reasoning_content is string %}
            {%- set thought = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>' + m.role + '\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + m.role + '\n' + content }}
        {%- endif %}
        {%- if m.tool_calls %}
            {%- for call in m.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
                {%- if call.function %}{%- set call = call.function %}{%- endif %}
                {{- '<tool_call>\n{"name": "' }}
                {{- call.name }}
                {{- '", "arguments": ' }}
                {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
                {{- '}\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or (messages[loop.index0 - 1].role != 'tool') %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}{{- content }}{{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""
R1 = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(is_tool=false, about='') %}"
    "{%- for m in messages %}{%- if m['role'] == 'system' %}{% set ns.about = m['content'] %}{%- endif %}{%- endfor %}"
    "{{ bos_token }}{{ ns.about }}"
    "{%- for m in messages %}"
    "{%- if m['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<｜User｜>' + m['content'] }}{%- endif %}"
    "{%- if m['role'] == 'assistant' and m['tool_calls'] %}"
    "{%- for call in m['tool_calls'] %}{{ '<｜Assistant｜><｜tool▁call▁begin｜>' + call['function']['name'] + '\\n```json\\n' + "
    "call['function']['arguments'] | tojson + '\\n```<｜tool▁call▁end｜>' }}{%- endfor %}{{ '<｜end▁of▁sentence｜>' }}"
    "{%- elif m['role'] == 'assistant' %}"
    "{% set content = m['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}"
    "{%- if m['role'] == 'tool' %}{{ '<｜tool▁output｜>' + m['content'] }}{%- endif %}"
    "{%- endfor -%}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
MISTRAL = """{%- if messages[0]['role'] == 'system' %}
    {%- set about = messages[0]['content'] %}{%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- set users = rest | selectattr('role', 'equalto', 'user') | list %}
{%- set ns = namespace(index=0) %}
{%- for m in rest %}
    {%- if not (m.role == 'tool' or m.tool_calls is defined) %}
        {%- if (m['role'] == 'user') != (ns.index % 2 == 0) %}{{- raise_exception('roles must alternate behind the system') }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for m in rest %}
    {%- if m['role'] == 'user' %}
        {%- if tools and m == users[-1] %}
            {{- '[AVAILABLE_TOOLS] [' }}{%- for tool in tools %}{{- tool | tojson }}{{- ', ' if not loop.last else '' }}{%- endfor %}{{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {%- if loop.last and about is defined %}
            {{- '[INST] ' + about + '\\n\\n' + m['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + m['content'] + '[/INST]' }}
        {%- endif %}
    {%- elif m.tool_calls is defined and m.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- set written = call.function | tojson %}
            {{- written[:-1] }}
            {%- if call.id | length != 9 %}{{- raise_exception('a call id has nine letters') }}{%- endif %}
            {{- ', "id": "' + call.id + '"}' }}{{- ', ' if not loop.last else ']' + eos_token }}
        {%- endfor %}
    {%- elif m['role'] == 'assistant' %}
        {{- ' ' + m['content'] | trim + eos_token }}
    {%- elif m['role'] == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('only user, assistant, tool and a first system message') }}
    {%- endif %}
{%- endfor %}
"""
NEMO = (
    MISTRAL.replace("[INST] ", "[INST]")
    .replace("' ' + m['content'] | trim", "m['content']")
    .replace("[TOOL_CALLS] ", "[TOOL_CALLS]")
)
CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
SMOLLM2 = """{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
PHI3 = """{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""
ZEPHYR = """{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\n' + m['content'] + eos_token }}
{% elif m['role'] == 'system' %}
{{ '<|system|>\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{{ '<|assistant|>\n' + m['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
GRANITE = """
{%- macro turn(role, text) -%}<|start_of_role|>{{ role }}<|end_of_role|>{{ text }}<|end_of_text|>
{% endmacro -%}
{%- set today %}Today's Date: {{ strftime_now('%B %d, %Y') }}.{% endset -%}
{%- if messages[0].role == 'system' %}{% set about = messages[0].content %}{% set messages = messages[1:] %}
{%- else %}{% set about = 'Knowledge Cutoff Date: April 2024.\n' ~ today %}{% endif -%}
{{- turn('system', about) }}
{%- if tools %}{{ turn('tools', tools | tojson(indent=4)) }}{% endif -%}
{%- if documents %}
{%- set written = namespace(texts=[]) %}
{%- for document in documents %}{% set written.texts = written.texts + ['Document ' ~ loop.index0 ~ '\n' ~ document.text | indent(2, first=true)] %}{% endfor %}
{{- turn('documents', written.texts | join('\n\n')) }}
{%- endif %}
{%- for m in messages %}{{ turn(m.role, m.content | replace('\\r\\n', '\n')) }}{% endfor %}
{%- if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"""
TULU = """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|>\n' }}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{{ '\n' if not loop.last else '' }}{% else %}{{ '<|%s|>\n%s\n' % (m['role'], m['content']) }}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"""
COMMAND = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set about = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set about = false %}{% endif %}{% if about != false %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + about + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% if documents %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>' }}{% for document in documents %}{{ '\nDocument: ' ~ loop.index0 }}{% for key, value in document.items() %}{{ '\n' ~ key | title ~ ': ' ~ value }}{% endfor %}{% endfor %}{{ '</results><|END_OF_TURN_TOKEN|>' }}{% endif %}{% for m in rest %}"""
COMMAND += (
    _ALTERNATE
    + """{% if m['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% else %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""
)
HERMES_TOOLS = (
    """{{ bos_token }}{{ '<|im_start|>system\nTools: ' ~ tools | map(attribute='function.name') | join(', ') ~ '\n' ~ tools | tojson ~ '<|im_end|>\n' }}"""
    + CHATML
)

_LLAMA = {
    "special": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ),
    "bos": "<|begin_of_text|>",
    "eos": "<|eot_id|>",
}
_QWEN: dict[str, Any] = {"special": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "eos": "<|im_end|>"}
_TOOL_TAGS = ("<tool_call>", "</tool_call>")
_THOUGHT_TAGS = ("<think>", "</think>")
_MISTRAL = {
    "special": ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    "bos": "<s>",
    "eos": "</s>",
}  # fmt: skip
_GEMMA = {
    "special": ("<pad>", "<eos>", "<bos>", "<unk>", *_GEMMA_TURNS),
    "bos": "<bos>",
    "eos": "<eos>",
    "pieces": "characters",
    "ordinary": ("\n", "\n\n", "▁▁", "<h1>", "</h1>"),
}
TEMPLATES: Mapping[str, Template] = {
    "gemma 2": Template(GEMMA2, **_GEMMA),
    "gemma 3": Template(GEMMA3, **_GEMMA),
    "llama 3.1": Template(LLAMA31, **_LLAMA),
    "llama 3.2": Template(LLAMA32, **_LLAMA),
    "qwen 2.5": Template(QWEN25, **_QWEN, ordinary=_TOOL_TAGS),
    "qwen 3": Template(QWEN3, **_QWEN, ordinary=(*_TOOL_TAGS, *_THOUGHT_TAGS), branches=True),
    "r1": Template(
        R1,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("<｜User｜>", "<｜Assistant｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁output｜>", *_THOUGHT_TAGS),
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        branches=True,
    ),
    "mistral": Template(MISTRAL, **_MISTRAL, pieces="characters behind ▁"),
    "nemo": Template(NEMO, **_MISTRAL),
    "chatml": Template(CHATML, ("<|startoftext|>", "<|im_start|>", "<|im_end|>"), bos="<|startoftext|>", eos="<|im_end|>", puts_bos=False),
    "chatml with bos": Template("{{ bos_token }}" + CHATML, ("<s>", "<|im_end|>"), ("<|im_start|>",), bos="<s>", eos="<|im_end|>"),
    "smollm2": Template(SMOLLM2, **_QWEN),
    "phi 3": Template(
        PHI3,
        ("<s>", "<unk>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>"),
        bos="<s>",
        eos="<|endoftext|>",
        pieces="words",
        strips=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>"),
    ),
    "zephyr": Template(ZEPHYR, ("<unk>", "<s>", "</s>"), bos="<s>", eos="</s>", pieces="characters behind ▁", puts_bos=False),
    "granite": Template(GRANITE, ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"), eos="<|end_of_text|>"),
    "tulu": Template(TULU, ("<|begin_of_text|>", "<|end_of_text|>"), bos="<|begin_of_text|>", eos="<|end_of_text|>"),
    "command r": Template(
        COMMAND,
        ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
    ),
    "hermes": Template(CHATML, **_QWEN, ordinary=_TOOL_TAGS, bos="<|endoftext|>", others={"tool_use": HERMES_TOOLS}),
}  # fmt: skip


@cache
def _model(pieces: str) -> str:
    """A BPE model as JSON; trained once, since every family's is of the same text."""
    if pieces == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(_TEXTS, trainer)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        fallback = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=fallback, show_progress=False)
        tokenizer.train_from_iterator(["▁" + text.replace(" ", "▁") for text in _TEXTS], trainer)
    return tokenizer.to_str()


def save(name: str, directory: Path) -> Path:
    """Saves a template with its tokenizer, as its publisher would."""
    template = TEMPLATES[name]
    state = json.loads(_model("bytes" if template.pieces == "bytes" else "characters"))
    tokenizer = Tokenizer.from_str(json.dumps(state | {"added_tokens": []}))
    if template.pieces == "bytes":
        tokenizer.decoder = decoders.ByteLevel()
    else:
        space = decoders.Replace("▁", " ")
        put = [] if template.pieces == "characters" else [decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse(), *put])
    if template.pieces == "characters":
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    elif template.pieces == "characters behind ▁":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif template.pieces == "words":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    added = [
        AddedToken(text, special=True, normalized=False, rstrip=text in template.strips) for text in template.special
    ]
    tokenizer.add_special_tokens(added)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in template.ordinary])
    if template.bos and template.puts_bos:
        put = [(template.bos, tokenizer.token_to_id(template.bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{template.bos} $A", special_tokens=put)
    named = {
        "bos_token": template.bos,
        "eos_token": template.eos,
        "unk_token": "<unk>" if "<unk>" in template.special else None,
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{name: text for name, text in named.items() if text})
    fast.chat_template = {"default": template.source, **template.others} if template.others else template.source
    fast.save_pretrained(directory)
    return directory
