"""What is encoded in pieces, in groups or in batches is what a single fresh encode gives, whatever was asked."""

import os
import subprocess
import sys
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from llm_dit.cli.benchmark import both, random_decoder
from llm_dit.encoding.protocols import BackendConfig

pytestmark = [pytest.mark.side_by_side, pytest.mark.xdist_group("exactness")]

WORDS = ["red", "blue", " circle", " star", " on", " white", "\n", " large", "<|im_end|>", " ünï", "中文", " 7"]
EDITS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 4), st.lists(st.sampled_from(WORDS), max_size=4)),
    min_size=1,
    max_size=6,
)


@cache
def backend(dtype):
    """A random model that keeps no embeddings.

    The cache of prefixes goes on from sequence to sequence, as in a session.
    """
    return both(random_decoder("tiny", dtype), config=BackendConfig(cache_bytes=0, prefix_cache_bytes=2**20))[1]


def edited(edits):
    """The texts of somebody who types: at each edit some words are taken out at a place and others put in."""
    words = ["<|im_start|>user\n", " a", " red", " circle", " on", " white", "<|im_end|>\n"]
    for place, out, new in edits:
        place %= len(words) or 1
        words[place : place + out] = new
        yield "".join(words) or " a"


def same(a, b, dtype):
    if dtype == torch.float32:
        return (a - b).abs().max() <= 1e-5 * b.abs().max()
    return torch.cosine_similarity(a.float(), b.float(), dim=1).min() >= 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(edits=EDITS)
def test_edits(dtype, edits):
    model, texts = backend(dtype), list(edited(edits))
    alone = [model.encode([text]).embedding for text in texts]
    for text, fresh in zip(texts, alone):
        assert same(model.encode_incremental([text]).embedding, fresh, dtype)
    for together in (model, model.replace(batch_tokens=40)):
        assert all(same(x, fresh, dtype) for x, fresh in zip(together.encode(texts).embeddings, alone))


def test_groups():
    """Long common beginnings, which the edits above do not have."""
    model = backend(torch.float32)
    texts = [
        beginning * 40 + "".join(WORDS[i : i + n])
        for beginning in (" red circle", " blue star")
        for i in range(6)
        for n in (1, 3)
    ]
    for several, text in zip(model.encode(texts, layers="all"), texts):
        fresh = model.encode([text], layers="all")
        assert all(same(several.layer(i).embedding, fresh.layer(i).embedding, torch.float32) for i in range(4))


PICTURE = """
import hashlib, sys
from llm_dit import ZImagePipeline
pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
prompt = "a large red star on a blue background, seen at night from very far away"
for n in range(int(sys.argv[1])):
    pipe.encoder.encode(prompt[:1 + n], template="neon", incremental=True)
    pipe.encoder.encode([prompt, prompt[:n + 1]], template="neon")
print(hashlib.sha256(pipe(prompt, template="neon", seed=3, progress=False).image.tobytes()).hexdigest())
"""


def test_a_picture_after_fifty_previews_is_that_of_a_fresh_process():
    def digest(previews):
        done = subprocess.run(
            [sys.executable, "-c", PICTURE, str(previews)],
            capture_output=True,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "IN_TEST"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    assert digest(50) == digest(0)
