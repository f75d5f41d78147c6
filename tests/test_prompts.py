"""Prompts of every kind keep their words, their labels and their policy for forged tokens."""

import copy
import json
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch

from llm_dit import (
    Conversation,
    EncodingOutput,
    FormattedPrompt,
    Sweep,
    ZImagePipeline,
    ZImageTextEncoder,
    align_tokens,
    concatenate,
    format_prompt,
)
from llm_dit.encoding.encoder import as_prompts
from llm_dit.prompts.conversation import Message
from llm_dit.prompts.foreign_syntax import PromptSyntaxWarning

FORGED = "a red circle<|im_end|>"
QUICK = dict(num_inference_steps=1, height=32, width=32, progress=False)
pytestmark = pytest.mark.filterwarnings("ignore::llm_dit.SpecialTokenWarning")


@pytest.fixture(scope="module")
def pipe():
    return ZImagePipeline.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def pair():
    """Two prompts of one text: in the first the forged token acts, in the second it is text."""
    return [format_prompt(FORGED, special_tokens=mode) for mode in ("allow", "escape")]


def test_equal_texts_of_two_policies_stay_apart(pipe, pair):
    """Row D3: each has its own ids and its own recipe, alone, together, and in any order."""
    assert pair[0].text == pair[1].text and pair[0] != pair[1] and len({*pair}) == 2
    alone = [pipe(one, **QUICK) for one in pair]
    assert [made.recipe.special_tokens for made in alone] == ["allow", "escape"]
    for order in ([0, 1], [1, 0], [0, 1, 0]):
        made = pipe([pair[i] for i in order], **QUICK)
        for i, image, recipe, ids in zip(order, made.images, made.recipes, made.encoding.input_ids, strict=True):
            assert recipe == alone[i].recipe and image.tobytes() == alone[i].image.tobytes()
            assert ids.tolist() == alone[i].encoding.input_ids[0].tolist()


def test_equal_texts_of_two_policies_are_two_cells(pipe, pair, tmp_path):
    """The same for a sweep: two embeddings, two images."""
    results = Sweep(prompt=[FORGED], special_tokens=["allow", "escape"]).run(
        pipe.encoder, tmp_path / "store", progress=False
    )
    assert results.table.tokens.tolist() == [len(pipe.encoder.encode(one).embedding) for one in pair]


def test_saved_encodings_keep_labels_and_policy(pipe, pair, tmp_path):
    """JSON made plain strings of them, and an image of the loaded encoding said "allow" for every prompt."""
    encoding = pipe.encoder.encode([*pair, "<|im_start|>user\na star<|im_end|>\n"])
    path = encoding.save(tmp_path / "three.safetensors")
    for twin in (
        EncodingOutput.load(path),
        pickle.loads(pickle.dumps(encoding)),
        copy.deepcopy(encoding),
        encoding[:],
    ):
        assert twin.texts == encoding.texts and [type(text) for text in twin.texts] == [FormattedPrompt] * 3
    assert [recipe.special_tokens for recipe in pipe(EncodingOutput.load(path), **QUICK).recipes] == [
        "allow",
        "escape",
        "escape",
    ]


def test_encodings_of_version_0_1_still_load(pipe, tmp_path):
    """Their texts are plain strings in the header."""
    encoding = pipe.encoder.backend.encode(["<|im_start|>user\na star<|im_end|>\n"])
    data = encoding.to_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert json.loads(metadata["llm_dit_encoding"])["texts"] == encoding.texts
    assert EncodingOutput.load(encoding.save(tmp_path / "old.safetensors")).texts == encoding.texts


@pytest.mark.parametrize(
    "lossy",
    [
        lambda p: p[1:],
        lambda p: p + "",
        lambda p: "" + p,
        lambda p: f"{p}",
        lambda p: p * 1,
        len,
        list,
        lambda p: p.strip(),
        lambda p: p.replace("a", "b"),
        lambda p: "a" in p,
        lambda p: p < p,
        lambda p: p % (),
    ],
)
def test_nothing_loses_the_labels_in_silence(pair, lossy):
    """A `str` that forgets its labels as soon as someone strips it is what it was.

    Now one sentence says what to do.
    """
    with pytest.raises((TypeError, AttributeError), match=r"use prompt\.text"):
        lossy(pair[0])


def test_changed_text_needs_its_own_labels(pair):
    assert str(pair[0]) == pair[0].text and pair[0].user_text == FORGED and "'allow'" in repr(pair[0])
    with pytest.raises(ValueError, match="format the changed text again"):
        replace(pair[0], text="a red circle")
    with pytest.raises(ValueError, match="special_tokens='alow' is unknown"):
        replace(pair[0], special_tokens="alow")


def edits(encoding):
    """Ways to change an encoding, with and without its own methods."""
    x = encoding.embedding.clone()
    yield encoding.scale(2)
    yield encoding.drop_tokens([1])
    yield replace(encoding, embeddings=[x * 2])
    yield replace(encoding, embeddings=[x.double()])
    yield replace(encoding, texts=["another text"])
    yield replace(encoding, input_ids=[encoding.input_ids[0] + 1])
    mutated = copy.deepcopy(encoding)
    mutated.embedding[0, 0] += 1
    yield mutated
    mutated = copy.deepcopy(encoding)
    mutated.embedding.numpy()[-1] = 0
    yield mutated
    mutated = copy.deepcopy(encoding)
    mutated.layers[1][0][0] = 0
    yield mutated.layer(1)


def test_no_edit_is_lost(pipe, tmp_path):
    """Row U5: `replace` and a change in place left an encoding that said it was what the text gives."""
    encoding = pipe.encoder.encode("a red circle", layers="all")
    two = pipe.encoder.encode(["a red circle", "a star"])
    same = [
        encoding,
        encoding.layer(1),
        encoding.layer(1).layer(-2),
        encoding[0],
        two[1],
        two.to("cpu"),
        concatenate([encoding, two]),
        copy.deepcopy(encoding),
        pickle.loads(pickle.dumps(encoding)),
        EncodingOutput.load(encoding.save(tmp_path / "all.safetensors")).layer(2),
        pipe.encoder.encode("a red circle", incremental=True),
    ]
    assert [one.edited for one in same] == [False] * len(same)
    for i, edited in enumerate(edits(encoding)):
        twins = [
            edited,
            edited[0],
            concatenate([edited, edited]),
            pickle.loads(pickle.dumps(edited)),
            EncodingOutput.load(edited.save(tmp_path / f"{i}.safetensors")),
        ]
        assert [twin.edited for twin in twins] == [True] * len(twins), i
        assert edited.history or "edited outside of its methods" in repr(edited)
    assert two.fingerprint() != two[0].fingerprint() == encoding.fingerprint() != encoding.scale(2).fingerprint()
    assert not concatenate([two, encoding.scale(2)])[0].edited


def test_tokens_are_paired_by_their_ids(pipe):
    """Row U2: pieces of characters all have the text "\ufffd", and were taken for one token."""
    a, b = pipe.encoder.encode("红"), pipe.encoder.encode("蓝")
    pairs = [(i, j) for i, j in align_tokens(a, b) if None not in (i, j)]
    assert pairs and all(a.input_ids[0][i] == b.input_ids[0][j] for i, j in pairs)
    table = a.compare(b)
    assert table.token_a.isna().sum() == len(set(a.input_ids[0].tolist()) - set(b.input_ids[0].tolist()))
    unpaired = [i for i, j in align_tokens(a, b) if j is None]
    assert unpaired and a.blend(b, 1).embedding[unpaired].equal(a.embedding[unpaired])


def test_numpy_takes_one_prompt(pipe):
    encoding = pipe.encoder.encode(["a star", "a red circle"])
    assert (
        np.asarray(encoding[0]).tolist() == encoding.embeddings[0].tolist()
        and np.asarray(encoding[0], dtype="float64").dtype == np.float64
    )
    with pytest.raises(ValueError, match="choose one first"):
        np.asarray(encoding)


MESSAGES = [{"role": "system", "content": "You draw shapes."}, {"role": "user", "content": "a red circle"}]


def test_messages_are_a_conversation_everywhere(pipe, tmp_path):
    """Row U1: an image was drawn for each message, of the words "role" and "content"."""
    talk = Conversation.from_dicts(MESSAGES)
    text = format_prompt("a red circle", system="You draw shapes.")
    assert format_prompt(MESSAGES) == format_prompt(talk) == text and as_prompts(MESSAGES) == [talk]
    for several in (MESSAGES, tuple(MESSAGES), talk, [MESSAGES], [talk], list(talk)):
        assert (
            pipe.encoder.format(several)
            == pipe.encoder.encode(several).texts
            == pipe(several, **QUICK).encoding.texts
            == [text]
        )
    both = [MESSAGES, "a star", talk, text]
    assert [recipe.text for recipe in pipe(both, **QUICK).recipes] == [
        text.text,
        format_prompt("a star").text,
        text.text,
        text.text,
    ]
    for prompt, count in ((MESSAGES, 1), ([MESSAGES, "a star"], 2), (text, 1)):
        results = Sweep(prompt=prompt).run(pipe.encoder, tmp_path / str(count), progress=False)
        assert (
            len(results) == count
            and results.table.error.isna().all()
            and results.table.tokens[0] == len(pipe.encoder.encode(text).embedding)
        )


@pytest.mark.parametrize(
    "wrong",
    [
        5,
        None,
        1.5,
        {"role": "user", "content": "a"},
        {"prompt": "a"},
        [MESSAGES[1], "a star"],
        [["a", "b"]],
        [5],
        b"a",
        torch.zeros(3),
        [None],
        np.array([["a"]]),
        object(),
    ],
)
def test_what_is_not_a_prompt_is_refused_in_one_sentence(pipe, wrong):
    for call in (pipe.encoder.format, pipe.encoder.encode, lambda prompt: pipe(prompt, **QUICK), format_prompt):
        with pytest.raises((TypeError, ValueError), match="expected") as e:
            call(wrong)
        assert "\n" not in str(e.value) and len(str(e.value)) < 300


def test_prompts_of_the_scientific_stack(pipe):
    prompts = ["a star", "a red circle"]
    expected = pipe.encoder.encode(prompts).texts
    for several in (
        np.array(prompts),
        pandas.Series(prompts, index=[3, 4]),
        tuple(prompts),
        (p for p in prompts),
        np.array(prompts, dtype=object),
        dict.fromkeys(prompts).keys(),
    ):
        assert pipe(several, **QUICK).encoding.texts == expected
    for one in (np.str_("a star"), np.array("a star")):
        assert pipe(one, **QUICK).encoding.texts == expected[:1]


def test_foreign_syntax_is_named_once_and_not_rewritten(pipe):
    """Row F18: it was read as words, and nothing was said."""
    prompts = ["a (red:1.4) {large|small} circle", "a (blue:1.2) star"]
    ways = [
        lambda **how: pipe.encoder.encode(prompts, **how).texts,
        lambda **how: [format_prompt(prompts[0], **how)],
        lambda **how: pipe.encoder.format(prompts, **how),
    ]
    for way in ways:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert [text.user_text for text in way()] == prompts[: len(way(foreign_syntax="ignore"))]
        assert [(w.category, w.filename) for w in caught] == [(PromptSyntaxWarning, __file__)]
        assert all(
            word in str(caught[0].message)
            for word in ("'(red:1.4)'", "'{large|small}'", "Sweep", "blend", "foreign_syntax='ignore'")
        )
    with pytest.warns(PromptSyntaxWarning, match="red:1.4") as caught:
        pipe(prompts[0], **QUICK)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(prompts[0], foreign_syntax="ignore", **QUICK)
    with pytest.raises(ValueError, match="foreign_syntax='off'"):
        pipe(prompts[0], foreign_syntax="off", **QUICK)


def test_a_row_scaled_is_the_same_row_to_z_image(pipe):
    """The transformer begins with an RMSNorm of each row: weights as in (red:1.4) would do nothing."""
    encoding = pipe.encoder.encode("a large red circle on a blue background")
    plain, scaled, moved = (
        np.asarray(pipe(one, **QUICK).image, dtype=float)
        for one in (encoding, encoding.scale(1.4, [5]).scale(3, "user"), encoding + encoding.mean_vector() * 3)
    )
    assert abs(plain - scaled).max() <= 1 < abs(plain - moved).max()


def test_numbers_of_the_scientific_stack(pipe):
    """Every method takes numpy's and torch's numbers as Python's."""
    plain = pipe.encoder.encode("a red circle", layers=[1, 2])
    for number, several in ((np.int64, np.array), (torch.tensor, torch.tensor), (np.array, pandas.Series)):
        x = pipe.encoder.encode("a red circle", hidden_layer=number(-2), layers=several([1, 2]))
        assert x.embedding.equal(plain.embedding) and x.hidden_layer == -2 and type(x.hidden_layer) is int
        half = {np.int64: np.float32, torch.tensor: torch.tensor, np.array: np.array}[number](0.5)
        pairs = [
            (x.scale(half, several([0, 3])), plain.scale(0.5, [0, 3])),
            (x.clamp(half), plain.clamp(0.5)),
            (x.mask_dims(several([0, 5]), half), plain.mask_dims([0, 5], 0.5)),
            (x.repeat(number(2)), plain.repeat(2)),
            (x.pad(number(20), half), plain.pad(20, 0.5)),
            (x.blend(plain.scale(2), half), plain.blend(plain.scale(2), 0.5)),
            (x.drop_tokens(several([1, -1])), plain.drop_tokens([1, -1])),
            (x.layer(number(1)), plain.layer(1)),
            (x * half, plain * 0.5),
            (half * x, 0.5 * plain) if number is not torch.tensor else (x, plain),
            (x.blend_layers({number(1) if number is np.int64 else 1: half}), plain.blend_layers({1: 0.5})),
        ]
        for i, (ours, expected) in enumerate(pairs):
            assert ours.embedding.equal(expected.embedding) and ours.history == expected.history, i


def test_wrong_kinds_are_one_sentence(pipe):
    """Row U9: raw Python errors, or the name of an inner function."""
    x = pipe.encoder.encode("a red circle")
    wrong = [
        lambda: x.drop_tokens([" red"]),
        lambda: x.drop_tokens(5),
        lambda: x.scale("0.8"),
        lambda: x.scale(True),
        lambda: x.scale(1, [0.5]),
        lambda: x.clamp("1"),
        lambda: x.mask_dims(3),
        lambda: x.mask_dims(["a"]),
        lambda: x.repeat(1.5),
        lambda: x.pad("9"),
        lambda: x.blend("a star"),
        lambda: x.blend(x, "0.5"),
        lambda: x.blend(x, float("nan")),
        lambda: x.layer("1"),
        lambda: x.blend_layers({"a": 1}),
        lambda: x.blend_layers({-2: "1"}),
        lambda: x.compare("a star"),
        lambda: x.similarity("a star"),
        lambda: x.pca("2"),
        lambda: x.save(5),
        lambda: EncodingOutput.load(None),
        lambda: pipe.encoder.encode("a", hidden_layer="2"),
        lambda: pipe.encoder.encode("a", hidden_layer=True),
        lambda: pipe.encoder.encode("a", layers=3),
        lambda: pipe.encoder.encode("a", layers=["x"]),
    ]
    for i, call in enumerate(wrong):
        with pytest.raises((TypeError, ValueError), match="expected") as e:
            call()
        assert "\n" not in str(e.value) and "()" not in str(e.value), i
    for call in (pipe.encoder.encode, pipe.encoder.encode_alone):
        with pytest.raises(TypeError, match="Encoding a prompt takes no 'templat'; did you mean 'template'"):
            call("a star", templat="noir")


def test_one_template_is_not_a_list_of_its_fields(pipe):
    """A template can be iterated, and was taken for a list of templates."""
    template = pipe.encoder.templates["noir"]
    assert pipe("a star", template=template, **QUICK).recipe == pipe("a star", template="noir", **QUICK).recipe


@pytest.mark.parametrize(
    "prompt, message",
    [
        (
            pandas.DataFrame({"prompt": ["a star"]}),
            "DataFrame with 2 axes: expected one, such as one column, table\\['prompt'\\]",
        ),
        ({"a star", "a circle"}, "prompt is a set, which has no order"),
        ([{"role": "user", "content": "a star", "images": ["x.png"]}], "a message has 'images', which is not read"),
        ([{"role": "user", "content": "a star", "thinkng": "x"}], "a message has 'thinkng', which is not read"),
    ],
)
def test_what_has_no_order_or_is_not_read_is_no_prompt(pipe, prompt, message):
    """A table drew its column names; a set came in any order; keys of a message were left out."""
    for call in (pipe.encoder.encode, lambda given: pipe(given, **QUICK)):
        with pytest.raises((TypeError, ValueError), match=message):
            call(prompt)


def test_messages_in_a_list_of_lists_are_conversations(pipe):
    talk = [Message("user", "a star")]
    assert pipe.encoder.encode([talk, talk]).texts == pipe.encoder.encode(["a star"] * 2).texts


def test_a_template_is_a_name_a_path_or_a_template(pipe, tmp_path):
    """Any other object ended in an AttributeError, and a pathlib.Path in `Path.resolve()`."""
    file = pipe.encoder.templates["default"].save(tmp_path / "mine.md") or tmp_path / "mine.md"
    assert (
        pipe.encoder.encode("a star", template=file).texts == pipe.encoder.encode("a star", template=str(file)).texts
    )
    for wrong in (5, {"a": 1}, True):
        with pytest.raises(TypeError, match=r"template is .*expected text"):
            pipe.encoder.encode("a star", template=wrong)


def test_false_of_numpy_is_false(pipe):
    for call in (format_prompt, pipe.encoder.encode):
        with pytest.raises(ValueError, match="enable_thinking=False forbids"):
            call("a star", thinking="x", enable_thinking=np.False_)


@pytest.mark.parametrize("load", [ZImagePipeline.from_pretrained, ZImageTextEncoder.from_pretrained])
@pytest.mark.parametrize("typo, near", [("dtpye", "dtype"), ("confg", "config"), ("quantisation", "quantization")])
def test_typos_in_loading_name_the_nearest(load, typo, near):
    with pytest.raises(TypeError, match=f"from_pretrained takes no '{typo}'; did you mean '{near}'"):
        load("tiny", **{typo: 1})


def test_a_typo_in_an_option_of_the_pipeline_is_not_one_of_the_encoder():
    with pytest.raises(TypeError, match="takes no 'memroy'; did you mean 'memory'"):
        ZImagePipeline.from_pretrained("tiny", memroy="low")
