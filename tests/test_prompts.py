"""Prompts of every kind keep their words, their labels and their policy for forged tokens."""
import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from llm_dit import EncodingOutput, FormattedPrompt, Sweep, ZImagePipeline, align_tokens, concatenate, format_prompt

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
    results = Sweep(prompt=[FORGED], special_tokens=["allow", "escape"]).run(pipe.encoder, tmp_path / "store", progress=False)
    assert results.table.tokens.tolist() == [len(pipe.encoder.encode(one).embedding) for one in pair]


def test_saved_encodings_keep_labels_and_policy(pipe, pair, tmp_path):
    """JSON made plain strings of them, and an image of the loaded encoding said "allow" for every prompt."""
    encoding = pipe.encoder.encode([*pair, "<|im_start|>user\na star<|im_end|>\n"])
    path = encoding.save(tmp_path / "three.safetensors")
    for twin in (EncodingOutput.load(path), pickle.loads(pickle.dumps(encoding)), copy.deepcopy(encoding), encoding[:]):
        assert twin.texts == encoding.texts and [type(text) for text in twin.texts] == [FormattedPrompt] * 3
    assert [recipe.special_tokens for recipe in pipe(EncodingOutput.load(path), **QUICK).recipes] == ["allow", "escape", "escape"]


def test_encodings_of_version_0_1_still_load(pipe, tmp_path):
    """Their texts are plain strings in the header."""
    encoding = pipe.encoder.backend.encode(["<|im_start|>user\na star<|im_end|>\n"])
    tensors, metadata = encoding._tensors_and_metadata()
    assert json.loads(metadata["llm_dit_encoding"])["texts"] == encoding.texts
    assert EncodingOutput.load(encoding.save(tmp_path / "old.safetensors")).texts == encoding.texts


@pytest.mark.parametrize("lossy", [lambda p: p[1:], lambda p: p + "", lambda p: "" + p, lambda p: f"{p}", lambda p: p * 1, len, list, lambda p: p.strip(),
                                   lambda p: p.replace("a", "b"), lambda p: "a" in p, lambda p: p < p, lambda p: p % ()])
def test_nothing_loses_the_labels_in_silence(pair, lossy):
    """A `str` that forgets its labels as soon as someone strips it is what it was; now one sentence says what to do."""
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
    same = [encoding, encoding.layer(1), encoding.layer(1).layer(-2), encoding[0], two[1], two.to("cpu"), concatenate([encoding, two]), copy.deepcopy(encoding),
            pickle.loads(pickle.dumps(encoding)), EncodingOutput.load(encoding.save(tmp_path / "all.safetensors")).layer(2), pipe.encoder.encode("a red circle", incremental=True)]
    assert [one.edited for one in same] == [False] * len(same)
    for i, edited in enumerate(edits(encoding)):
        twins = [edited, edited[0], concatenate([edited, edited]), pickle.loads(pickle.dumps(edited)), EncodingOutput.load(edited.save(tmp_path / f"{i}.safetensors"))]
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
    assert np.asarray(encoding[0]).tolist() == encoding.embeddings[0].tolist() and np.asarray(encoding[0], dtype="float64").dtype == np.float64
    with pytest.raises(ValueError, match="choose one first"):
        np.asarray(encoding)
