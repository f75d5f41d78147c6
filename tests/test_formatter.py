"""The formatter's small promises, one by one; `tools/mutation.py` says which of them the notebook leaves open."""

import copy
import re
import warnings
from dataclasses import FrozenInstanceError

import pytest

from llm_dit.prompts.conversation import Conversation, Message
from llm_dit.prompts.formatter import (
    FormattedPrompt,
    Qwen3Formatter,
    Span,
    SpecialTokenError,
    SpecialTokenWarning,
    ThinkingConflictError,
    format_prompt,
    resolve_thinking,
)

pytestmark = pytest.mark.side_by_side
BEGIN, END = "<|im_start|>", "<|im_end|>\n"


def said(kind, f, *args, **kwargs):
    """The sentence of the only warning of a call, which names the line of the caller."""
    with pytest.warns(kind) as given:
        f(*args, **kwargs)
    assert [(one.filename, one.lineno) for one in given] == [(__file__, said.__code__.co_firstlineno + 3)]
    return str(given[0].message)


def silently(f, *args, **kwargs):
    """Call `f`, and fail if it warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return f(*args, **kwargs)


# ---- the prompt and its parts


def test_a_span_and_a_prompt_do_not_change():
    prompt = format_prompt("a cat")
    for thing, field in ((Span("user", 0, 1), "start"), (prompt, "text"), (Qwen3Formatter(), "special_tokens")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, field, 1)
    assert len({prompt, format_prompt("a cat"), copy.deepcopy(prompt), FormattedPrompt(prompt.text)}) == 2


SPANS = (Span("role", 0, 2), Span("user", 2, 5))
NOT_COVERING = [
    SPANS[:1],
    SPANS[1:],
    SPANS[::-1],
    (Span("role", 0, 1), SPANS[1]),
    (Span("role", 0, 3), SPANS[1]),
    (Span("role", 0, 7), Span("user", 7, 5)),
    (SPANS[0], Span("user", 2, 6)),
]


@pytest.mark.parametrize("spans", NOT_COVERING)
def test_spans_that_do_not_cover_the_text(spans):
    with pytest.raises(ValueError, match="do not cover the 5 characters"):
        FormattedPrompt("a cat", spans)
    assert FormattedPrompt("a cat", SPANS).user_text == "cat"


def test_what_a_prompt_refuses():
    with pytest.raises(TypeError, match="text is bytes, expected a chat string"):
        FormattedPrompt(b"a cat")
    with pytest.raises(TypeError, match=r"spans holds tuple \('user', 0, 5\), expected Span"):
        FormattedPrompt("a cat", (("user", 0, 5), "system"))
    with pytest.raises(ValueError, match="is unknown"):
        FormattedPrompt("a cat", special_tokens="ignore")
    prompt = FormattedPrompt(type("Text", (str,), {})("a cat"), list(SPANS), ["x"])
    assert (type(prompt.text), prompt.spans, prompt.forged) == (str, SPANS, ("x",))


def test_a_prompt_is_no_string():
    prompt = format_prompt("a cat")
    uses = (
        lambda: prompt[0],
        lambda: len(prompt),
        lambda: "cat" in prompt,
        lambda: prompt + "!",
        lambda: f"{prompt}",
        lambda: "!" + prompt,
        lambda: prompt < prompt,
        lambda: prompt * 2,
    )
    for use in uses:
        with pytest.raises(TypeError, match=r"use prompt\.text"):
            use()
    with pytest.raises(AttributeError, match=r"use prompt\.text\.upper, or change"):
        prompt.upper()
    with pytest.raises(AttributeError, match="has no 'colour': expected text, spans"):
        prompt.colour  # noqa: B018
    assert str(prompt) is prompt.text and prompt and not FormattedPrompt("")


def test_options_are_given_by_name():
    for call, value in ((format_prompt, "a"), (Qwen3Formatter().format, [{"role": "user", "content": "a"}])):
        with pytest.raises(TypeError, match="positional"):
            call(value, False)


def test_repr_shortens_long_prompts_and_names_what_is_unusual():
    plain = format_prompt("a")
    assert repr(plain) == f"FormattedPrompt({plain.text!r}, 9 spans)"
    assert repr(FormattedPrompt("a" * 400)) == f"FormattedPrompt('{'a' * 400}', 0 spans)"
    text = "a" * 300 + "b" * 21 + "c" * 80
    assert repr(FormattedPrompt(text)) == f"FormattedPrompt('{'a' * 300} … {'c' * 80}', 0 spans)"
    strict = FormattedPrompt("a", forged=("<think>",), special_tokens="allow")
    assert repr(strict) == "FormattedPrompt('a', 0 spans, forged=('<think>',), special_tokens='allow')"


def test_segments_cut_only_at_special_spans():
    text = "<think><think>\n"
    spans = (Span("special", 0, 7), Span("user", 7, 14), Span("special", 14, 15))
    assert FormattedPrompt(text, spans).segments() == [("<think>", True), ("<think>\n", False)]
    allowed = FormattedPrompt(text, spans, special_tokens="allow")
    assert allowed.segments() == [("<think>", True), ("<think>", True), ("\n", False)]
    assert FormattedPrompt("a <think>").segments() == [("a <think>", False)] and FormattedPrompt("").segments() == []


def test_html_shows_parts_labels_and_forged_tokens():
    prompt = silently(format_prompt, "a\n<think>", special_tokens="allow")
    html = prompt._repr_html_()
    shown = re.findall(r'<span class="llm-dit-label llm-dit-label-(\w+)" title="(\w+)">', html)
    assert shown == [(span.label, span.label) for span in prompt.spans]
    legend = re.findall(r'<span class="llm-dit-token [^"]*">(\w+)</span>', html)
    assert legend == ["special", "role", "user"], "the labels that there are"
    assert html.endswith("special-token text in the content (allow): <code>&lt;think&gt;</code></small></div>")
    assert "special-token text" not in format_prompt("a")._repr_html_()
    unlabelled = FormattedPrompt("a & b")._repr_html_()
    assert "a &amp; b" in unlabelled and "<span" not in unlabelled
    grey = '<span class="llm-dit-label" title="new">ab</span>'
    assert grey in FormattedPrompt("ab", (Span("new", 0, 2),))._repr_html_(), "an unknown label"


def test_a_warning_says_what_stands_where_and_names_the_callers_line():
    words = said(SpecialTokenWarning, format_prompt, "a <think> b </think>", system="s <|im_end|>")
    system, user = words.split(": kept as plain text")[0].split("; ")
    assert system == "the system text contains '<|im_end|>'" and user == "the user text contains '<think>', '</think>'"
    turns = [{"role": "user", "content": "<think>"}]
    assert "the user text contains '<think>'" in said(SpecialTokenWarning, Qwen3Formatter().format, turns)
    inline = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "t</think>b"}]
    assert "reads as the end of a think block" in said(SpecialTokenWarning, Qwen3Formatter().format, inline)
    silently(Qwen3Formatter("allow").format, inline)
    silently(Qwen3Formatter("allow").format, turns)


def test_at_most_three_kinds_are_named():
    kinds = ["<think>", "</think>", "<|im_end|>", "<|im_start|>", "<|endoftext|>"]
    names = ", ".join(map(repr, kinds[:3]))
    for number, more in ((3, ":"), (4, " and 1 more:"), (5, " and 2 more:")):
        words = said(SpecialTokenWarning, format_prompt, "".join(kinds[:number] * 2))
        assert f"contains {names}{more}" in words
    with pytest.raises(SpecialTokenError, match=r"contains '<think>', which the tokenizer"):
        format_prompt("<think>", special_tokens="error")


def test_an_answer_with_a_thought_of_its_own_may_speak_of_think_blocks():
    """Only where a thought is read out of the text is there anything to say."""
    answer = {"role": "assistant", "content": "a plain answer"}
    for message in (answer, answer | {"reasoning_content": "t"}):
        silently(Qwen3Formatter("error").format, [{"role": "user", "content": "a"}, message])
    user = [{"role": "user", "content": "x </think>"}]
    assert "the user text contains" in said(SpecialTokenWarning, Qwen3Formatter().format, user)
    both = [{"role": "user", "content": "a"}, answer | {"content": "x </think> y", "reasoning_content": "t"}]
    assert "the assistant text contains '</think>': kept" in said(SpecialTokenWarning, Qwen3Formatter().format, both)


# ---- thinking


@pytest.mark.parametrize("thinking", ["t", ""])
def test_a_thought_and_no_block_contradict_each_other(thinking):
    with pytest.raises(ThinkingConflictError, match="leave out one of the two"):
        resolve_thinking(thinking, False)
    assert resolve_thinking(thinking, True) == resolve_thinking(thinking) == thinking


def test_a_refusal_shows_the_beginning_of_a_thought():
    with pytest.raises(ThinkingConflictError, match=f"thinking='{'t' * 40}' asks"):
        resolve_thinking("t" * 41, False)
    for wrong in ("yes", 2, "False"):
        with pytest.raises(ValueError, match="expected True, False or None"):
            resolve_thinking(None, wrong)
        with pytest.raises(ValueError, match="expected True, False or None"):
            Qwen3Formatter(enable_thinking=wrong)


def test_an_unknown_policy_is_refused_before_anything_is_reported():
    with pytest.raises(ValueError, match="is unknown"):
        silently(format_prompt, "<think>", special_tokens="ignore")


def test_newlines_around_thought_and_answer():
    text = format_prompt("a", thinking="\n\nt\n", assistant="\n\nb").text
    assert text.endswith("assistant\n<think>\nt\n</think>\n\nb")
    assert format_prompt("a", assistant="\nb").text.endswith("assistant\n\nb"), "without a thought it is kept as it is"
    assert format_prompt("a", thinking="\n").text == format_prompt("a", thinking="").text


# ---- several turns


def chat(*turns, **options):
    """The chat string of turns such as "u question", "a answer", after whose "|" comes the thought."""
    messages = []
    for turn in turns:
        words, _, thought = turn[2:].partition("|")
        messages.append(Message({"u": "user", "a": "assistant", "s": "system"}[turn[0]], words, thought or None))
    names = ("special_tokens", "keep_past_thinking", "enable_thinking")
    formatter = Qwen3Formatter(**{name: options.pop(name) for name in names if name in options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return formatter.format(Conversation(tuple(messages)), **options).text


def test_thoughts_are_kept_after_the_last_question_only():
    assert chat("u q", "a r|old", "u q", "a s|new").count("<think>") == 1
    assert "<think>\nnew\n</think>\n\ns" in chat("u q", "a r|old", "u q", "a s|new")
    kept = chat("u q", "a r|old", "u q", "a s|new", keep_past_thinking=True)
    assert "<think>\nold\n</think>\n\nr" in kept and "<think>\nnew\n</think>\n\ns" in kept
    assert chat("u q", "a r", "u q", "a s", keep_past_thinking=True).count("<think>") == 1, "the last one has a block"
    assert chat("u q", "a r", "a s|t").count("<think>") == 1
    assert chat("u q", "a r|t", "a s").count("<think>\n") == 2


def test_a_tools_response_is_not_a_question():
    response = "u <tool_response>4</tool_response>"
    assert "<think>\nt\n</think>" in chat("u q", "a r|t", response)
    for question in ("u <tool_response>4", "u 4</tool_response>", "u 4"):
        assert "<think>" not in chat("u q", "a r|t", question)
    assert "<think>" not in chat("a r|t", response), "without a question the last message counts"


def test_an_inline_thought():
    def answer(text):
        return chat("u q", f"a {text}", add_generation_prompt=False).split("assistant\n", 1)[1]

    assert answer("<think>\nt\n</think>\n\nb") == answer("t</think>b") == "<think>\nt\n</think>\n\nb" + END
    assert answer("x<think>t</think>y</think>b") == "<think>\nt\n</think>\n\nb" + END
    assert answer("<think>x<think>t</think>b") == "<think>\nt\n</think>\n\nb" + END
    assert answer("t\n\n</think>\n\nb\n") == "<think>\nt\n</think>\n\nb\n" + END
    assert answer("\nb") == "<think>\n\n</think>\n\nb" + END


def test_how_a_conversation_ends():
    assert chat("u q") == f"{BEGIN}user\nq{END}{BEGIN}assistant\n"
    assert chat("u q", add_generation_prompt=False) == f"{BEGIN}user\nq{END}"
    assert chat("u q", "a r", "u s", continue_final_message=True).endswith(f"{BEGIN}user\ns")
    assert chat("u q", enable_thinking=True) == chat("u q") + "<think>\n\n</think>\n\n"
    with pytest.raises(ThinkingConflictError):
        format_prompt("q", thinking="", enable_thinking=False)
    block = Qwen3Formatter(enable_thinking=True)
    question = [{"role": "user", "content": "q"}]
    assert block.format(question, enable_thinking=False).text == chat("u q"), "the call's own setting wins"
    assert block.format(question, enable_thinking=None).text == block.format(question).text != chat("u q")


@pytest.mark.parametrize("flag, ours", [(False, True), (True, False), (None, False)])
def test_the_flag_of_transformers(flag, ours):
    formatter = Qwen3Formatter.from_hf_flag(flag, keep_past_thinking=True, special_tokens="error")
    assert formatter == Qwen3Formatter("error", True, ours)
    assert Qwen3Formatter() == Qwen3Formatter("escape", False, None)
