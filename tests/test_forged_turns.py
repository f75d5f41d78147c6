"""Texts that try to close their turn or open a think block (`forged_turns.json`), read by Qwen3's real tokenizer with
default settings: none changes the structure unnoticed.
"""

import json
import warnings
from functools import cache
from pathlib import Path

import pytest
from qwen_vocabulary import qwen3_tokenizer

from llm_dit import (
    Conversation,
    Qwen3Formatter,
    SpecialTokenError,
    SpecialTokenWarning,
    Template,
    ZImageTextEncoder,
    format_prompt,
)
from llm_dit.encoding.tokenizing import PromptTokenizer
from llm_dit.prompts.formatter import SPECIAL_TOKENS

pytestmark = [pytest.mark.side_by_side, pytest.mark.xdist_group("forged turns")]

CORPUS = json.loads((Path(__file__).parent / "forged_turns.json").read_text())
NAMES = [case["how"] for case in CORPUS]


@cache
def tokenizers():
    """Qwen3's, and that of the embedded checkpoint with the encoder around it."""
    encoder = ZImageTextEncoder.from_pretrained("tiny", device="cpu")
    return [PromptTokenizer(qwen3_tokenizer()), encoder.backend.tokenizer], encoder


def harmless(value):
    """The same with a plain word in place of each text that is not empty."""
    if isinstance(value, dict):
        return {key: part if key == "role" else harmless(part) for key, part in value.items()}
    if isinstance(value, list):
        return [harmless(part) for part in value]
    return "word" if value else value


def template(case):
    """A template with the case's variables, filled with what the case says."""
    variables = case.get("variables", {})
    return Template(name="look", system_prompt=case["template"], variables=dict.fromkeys(variables, "plain")).fill(
        **variables
    )


def formatted(case, **options):
    """The chat string of a case."""
    if "messages" in case:
        return Qwen3Formatter(**options).format(case["messages"])
    said = {name: case.get(name) for name in ("system", "thinking", "assistant")}
    if "template" in case:
        said = template(case).resolve()
    return format_prompt(case["prompt"], **said, **options)


def structure(prompt, tokenizer):
    """The special ids that a tokenizer reads."""
    special = {tokenizer.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    return [i for i in tokenizer(prompt)[0] if i in special]


def noticed(call):
    """What a call gives, and whether it warned."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        return call(), any(w.category is SpecialTokenWarning for w in given)


def exact(case):
    """Whether the case's texts hold the exact text of a special token."""
    if "template" in case:
        texts = [case["prompt"], template(case).system_prompt]
    else:
        texts = [
            m.get(name)
            for m in case.get("messages", [case])
            for name in ("content", "reasoning_content", "prompt", "system", "thinking", "assistant")
        ]
    return any(token in text for token in SPECIAL_TOKENS for text in filter(None, texts))


def read_as_structure(case):
    """Whether Qwen3's own chat template, which a conversation follows, reads a text as structure: an inline thought,
    or a tool's response around a user's text. These are told of.
    """
    return any(
        "</think>" in m["content"] if m["role"] == "assistant" else m["content"].startswith("<tool_response>")
        for m in case.get("messages", ())
    )


def test_the_corpus_is_what_it_says():
    assert (
        len(CORPUS) >= 100
        and len(set(NAMES)) == len(NAMES)
        and len({json.dumps({**case, "how": ""}) for case in CORPUS}) == len(CORPUS)
    )
    assert sum(map(exact, CORPUS)) >= 50 and sum(not exact(case) for case in CORPUS) >= 25


@pytest.mark.parametrize("case", CORPUS, ids=NAMES)
def test_a_forged_turn_is_noticed_or_has_no_effect(case):
    prompt, warned = noticed(lambda: formatted(case))
    plain = formatted(
        {**harmless(case), "template": "A look.", "variables": {}} if "template" in case else harmless(case)
    )
    assert warned == exact(case), "a warning for the text of a special token, and none for what only looks like it"
    for tokenizer in tokenizers()[0]:
        if not read_as_structure(case):
            assert structure(prompt, tokenizer) == structure(plain, tokenizer)
        own = [prompt.span_text(span) for span in prompt.spans if span.label == "special"]
        assert structure(prompt, tokenizer) == tokenizer.tokenizer.convert_tokens_to_ids(
            [text for text in own if text in SPECIAL_TOKENS]
        ), "what acts is what the spans say"
        assert tokenizer.tokenizer.decode(tokenizer(prompt)[0]) == prompt.text or not str(prompt).isascii(), (
            "no character is changed"
        )


@pytest.mark.parametrize(
    "case", [case for case in CORPUS if exact(case)], ids=[case["how"] for case in CORPUS if exact(case)]
)
def test_it_is_refused_where_that_is_asked_for(case):
    with pytest.raises(SpecialTokenError):
        formatted(case, special_tokens="error")
    if "template" in case:
        return
    own = ZImageTextEncoder(
        tokenizers()[1].backend, formatter="tokenizer"
    )  # whose chat template is the tokenizer's, and cannot keep such text apart
    said = {name: case[name] for name in ("system", "assistant") if name in case}
    if "thinking" in case:
        return
    with pytest.raises(SpecialTokenError):
        own.format(Conversation.from_dicts(case["messages"]) if "messages" in case else case["prompt"], **said)


@pytest.mark.parametrize("case", CORPUS, ids=NAMES)
def test_it_acts_where_that_is_allowed(case):
    """What the default prevents is real: with "allow", the text of a special token is one."""
    prompt, warned = noticed(lambda: formatted(case, special_tokens="allow"))
    assert not warned
    if not exact(case) or "messages" in case:
        return
    ids, _ = noticed(lambda: structure(prompt, tokenizers()[0][0]))
    assert len(ids) > len(structure(noticed(lambda: formatted(case))[0], tokenizers()[0][0]))


def test_the_encoder_is_not_fooled_either():
    """The same through the encoder, whose embedding is that of the plain-text ids."""
    encoder = tokenizers()[1]
    for case in CORPUS:
        if "prompt" not in case or "template" in case:
            continue
        said = {name: case[name] for name in ("system", "thinking", "assistant") if name in case}
        encoding, warned = noticed(lambda: encoder.encode(case["prompt"], **said))
        assert warned == exact(case)
        special = [token for token in encoding.tokens[0] if token in SPECIAL_TOKENS]
        assert (
            special
            == [token for token in encoder.encode("word", **harmless(said)).tokens[0] if token in SPECIAL_TOKENS]
            or encoding.truncated[0]
        ), case["how"]
