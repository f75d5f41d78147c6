"""Files of models, LoRAs, sweeps and caches with anything in them: a result or one sentence, soon, in little memory.

As in `test_fuzz`: 200 fixed cases of each, and with `make fuzz` ten thousand random ones.
"""

import json
import os
import shutil
import struct
from functools import cache
from pathlib import Path

import pytest
import torch
from fuzzing import folder, fuzz, one_sentence
from hypothesis import strategies as st
from safetensors.torch import save

from llm_dit import EncodingOutput, Sweep, TransformersBackend, ZImagePipeline
from llm_dit.encoding.embedding_cache import EmbeddingCache
from llm_dit.encoding.gguf_files import gguf_header
from llm_dit.encoding.model_files import resolve_model
from llm_dit.generation.lora_files import read_lora

pytestmark = pytest.mark.side_by_side

TINY = Path(resolve_model("tiny"))
NUMBERS = st.one_of(st.integers(), st.integers(-2, 300), st.sampled_from([10**9, 2**63, 10**30]), st.floats())
WORDS = st.one_of(st.text(max_size=12), st.sampled_from(["sdpa", "eager", "qwen2", "../..", "/etc/passwd", "llama"]))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)


def flipped(data, flips, length):
    """Bytes with some others in their places, cut off."""
    data = bytearray(data[: max(1, int(length * len(data)))])
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    return bytes(data)


FLIPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8)
LENGTH = st.one_of(st.just(1.0), st.floats(0, 1))


@cache
def model() -> Path:
    """The embedded checkpoint with links in place of its weights."""
    place = folder() / "model"
    shutil.copytree(TINY, place, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in TINY.rglob("*.safetensors"):
        (place / file.relative_to(TINY)).symlink_to(file)
    return place


@cache
def transformer():
    return ZImagePipeline.from_pretrained("tiny", device="cpu").transformer


@cache
def encoding() -> EncodingOutput:
    return TransformersBackend.from_pretrained("tiny", device="cpu").encode(["a cat"])


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """What is read once is read before anything is timed."""
    transformer(), encoding(), model()


def with_changes(name, changes, gone=()):
    """Load the model with other fields in one of its JSON files; None if it is refused in one sentence."""
    file = model() / name
    said = json.loads((TINY / name).read_text())
    file.write_text(json.dumps({key: value for key, value in {**said, **changes}.items() if key not in gone}))
    try:
        return TransformersBackend.from_pretrained(model(), device="cpu").encode(["a cat"])
    except (ValueError, OSError) as e:
        return one_sentence(e, ValueError, OSError)
    finally:
        file.write_text((TINY / name).read_text())


CONFIG = sorted(json.loads((TINY / "text_encoder" / "config.json").read_text()))
MORE = [
    "attn_implementation",
    "quantization_config",
    "auto_map",
    "transformers_weights",
    "rope_scaling",
    "text_config",
]


@fuzz(
    changes=st.dictionaries(st.sampled_from([*CONFIG, *MORE]), ANYTHING, max_size=2),
    gone=st.sets(st.sampled_from(CONFIG), max_size=1),
)
def test_config(changes, gone):
    with_changes("text_encoder/config.json", changes, gone)


RULES = st.one_of(
    st.none(),
    st.builds(
        lambda pattern, content, n: {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": pattern, "content": content}] * n,
        },
        st.one_of(st.builds(dict, String=WORDS), st.builds(dict, Regex=st.text("a(*+|)?{2,}", max_size=10))),
        WORDS,
        st.integers(1, 40),
    ),
    st.builds(lambda text: {"type": "Prepend", "prepend": text * 50}, WORDS),
    ANYTHING,
)
CUTS = st.one_of(
    st.builds(
        lambda regex: {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        st.text("ab(*+|)?{2,}[]\\s", max_size=12),
    ),
    ANYTHING,
)


@fuzz(rules=RULES, cuts=CUTS, which=st.integers(0, 2))
def test_tokenizer(rules, cuts, which):
    changes = {"normalizer": rules, "pre_tokenizer": cuts}
    with_changes("tokenizer/tokenizer.json", changes if which == 2 else dict([[*changes.items()][which]]))


KINDS = [
    "lora_A.weight",
    "lora_B.weight",
    "lora_down.weight",
    "lora_up.weight",
    "alpha",
    "lokr_w1",
    "lokr_w1_a",
    "dora_scale",
]
SHAPES = st.one_of(
    st.lists(st.sampled_from([0, 1, 2, 4]), max_size=4), st.lists(st.sampled_from([1, 4, 88, 264, 2_000]), max_size=2)
)


@fuzz(
    names=st.dictionaries(
        st.tuples(
            st.sampled_from(["transformer.", "diffusion_model.", "lora_unet_", "base_model.model.", ""]),
            st.sampled_from(["layers.0.attention.to_q", "layers_0_attention_to_q", "layers.9.x", "", "a b"]),
            st.sampled_from(KINDS),
        ),
        SHAPES,
        max_size=4,
    ),
    noted=st.one_of(
        st.none(),
        st.dictionaries(st.sampled_from(["r", "lora_alpha", "rank_pattern", "target_modules", "use_dora"]), ANYTHING),
    ),
    flips=FLIPS,
    length=LENGTH,
)
def test_lora(names, noted, flips, length):
    """Tensors of any names and shapes, any metadata, and flipped bits."""
    tensors = {f"{prefix}{layer}.{kind}": torch.ones(shape) for (prefix, layer, kind), shape in names.items()}
    metadata = None if noted is None else {"lora_adapter_metadata": json.dumps(noted)}
    file = folder() / "fuzzed.safetensors"
    file.write_bytes(flipped(save(tensors, metadata), flips, length))
    try:
        assert read_lora(file, transformer()).tensors
    except (ValueError, OSError) as e:
        one_sentence(e, ValueError, OSError)


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


@cache
def gguf() -> bytes:
    """The header of a small GGUF file, and room for its tensors."""
    data = b"GGUF" + struct.pack("<IQQ", 3, 2, 3)
    data += text("qwen3.block_count") + struct.pack("<II", 4, 1)
    data += text("general.name") + struct.pack("<I", 8) + text("small")
    data += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    for name, shape in (("token_embd.weight", (8, 2)), ("blk.0.ffn_up.weight", (8, 16))):
        data += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, 0)
    return data + bytes(1000)


@fuzz(flips=st.lists(st.tuples(st.floats(0, 0.25), st.integers(0, 255)), max_size=8), length=LENGTH)
def test_gguf(flips, length):
    file = folder() / "fuzzed.gguf"
    file.write_bytes(flipped(gguf(), flips, length))
    try:
        assert gguf_header(file)
    except OSError as e:
        one_sentence(e, OSError)


YAML = st.one_of(
    st.text(max_size=40),
    ANYTHING.map(json.dumps),
    st.dictionaries(st.sampled_from(["arguments", "how", "cells", "x"]), ANYTHING, max_size=3).map(json.dumps),
    st.dictionaries(st.sampled_from(["prompt", "seed", "self", "how", "height"]), ANYTHING, max_size=3).map(
        lambda said: json.dumps({"arguments": said})
    ),
    st.text("&*a: [],{}-\n!|>'\"?#", max_size=40),
)


@fuzz(content=YAML)
def test_sweep(content):
    file = folder() / "fuzzed.yaml"
    file.write_bytes(content.encode(errors="surrogatepass"))
    try:
        assert len(Sweep.from_yaml(file)) and repr(Sweep.from_yaml(file))
    except ValueError as e:
        one_sentence(e, ValueError)


@fuzz(flips=FLIPS, length=LENGTH)
def test_cache(flips, length):
    """A file of the cache that is not what was written is as good as none."""
    kept, key = EmbeddingCache(folder() / "cache", 0), "ab" * 32
    kept.put(key, encoding().embedding)
    file = next((folder() / "cache").rglob(f"{key}*"))
    before = file.read_bytes()
    file.write_bytes(after := flipped(before, flips, length))
    found = EmbeddingCache(folder() / "cache", 0).get(key)
    assert found is None or found.equal(encoding().embedding), after == before


@fuzz(
    changes=st.dictionaries(
        st.sampled_from(["tokens", "texts", "spans", "hidden_layer", "truncated", "kept", "encoded", "history", "x"]),
        ANYTHING,
        max_size=2,
    ),
    flips=FLIPS,
    length=LENGTH,
)
def test_embedding(changes, flips, length):
    data = encoding().to_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    said = json.loads(header["__metadata__"]["llm_dit_encoding"]) | changes
    header["__metadata__"]["llm_dit_encoding"] = json.dumps(said)
    written = json.dumps(header).encode()
    file = folder() / "embedding.safetensors"
    file.write_bytes(flipped(struct.pack("<Q", len(written)) + written + data[8 + size :], flips, length))
    try:
        assert repr(EncodingOutput.load(file))
    except (ValueError, OSError) as e:
        one_sentence(e, ValueError, OSError)


def test_a_pipe_among_the_files_does_not_wait():
    """What these cases do not make, since they only write files."""
    place = folder() / "pipe.safetensors"
    os.mkfifo(place)
    for read in (
        lambda: read_lora(place, transformer()),
        lambda: EncodingOutput.load(place),
        lambda: gguf_header(place),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            read()
        one_sentence(caught.value, ValueError, OSError)
