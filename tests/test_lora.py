"""The same matrices in every spelling of a LoRA give the same image, and a change that fails changes nothing."""

import copy
import json
import pickle
import re
import warnings
from contextlib import contextmanager

import numpy as np
import peft
import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from safetensors.torch import save_file

from llm_dit import ZImagePipeline
from llm_dit.generation import lora as lora_module
from llm_dit.generation.lora import LoadedLora, LoraStack
from llm_dit.generation.lora_files import read_lora
from llm_dit.generation.lora_sources import lora_hash

pytestmark = pytest.mark.side_by_side
PROMPT, RANK = "a red circle on a blue background", 4
BLOCKS = ("layers.0", "layers.3", "context_refiner.0")
Q, K, V, OUT, W1 = "attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0", "feed_forward.w1"


@pytest.fixture(scope="module")
def pipe():
    return ZImagePipeline.from_pretrained("tiny", device="cpu")


@pytest.fixture(autouse=True)
def nothing_is_left(pipe):
    yield
    pipe.unload_lora()


def draw(pipe):
    return np.asarray(pipe(PROMPT, seed=0, progress=False, num_inference_steps=1).image, dtype=int)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.15


@pytest.fixture(scope="module")
def matrices():
    """A and B by layer; query, key and value share A, as a fused matrix has it."""
    found = {}
    for i, block in enumerate(BLOCKS):
        shared = random(RANK, 160, seed=i)
        found |= {
            f"{block}.{part}": (shared, random(160, RANK, seed=10 + i + 20 * k)) for k, part in enumerate((Q, K, V))
        }
        found[f"{block}.{OUT}"] = random(RANK, 160, seed=90 + i), random(160, RANK, seed=95 + i)
        found[f"{block}.{W1}"] = random(RANK, 160, seed=100 + i), random(426, RANK, seed=105 + i)
    return found


@contextmanager
def changed_transformer(pipe, deltas):
    """The transformer with differences added to its weights, which is what adapters must amount to."""
    own = pipe.pipe.transformer
    pipe.pipe.transformer = copy.deepcopy(own)
    try:
        for layer, delta in deltas.items():
            pipe.pipe.transformer.get_submodule(layer).weight.data += delta
        yield
    finally:
        pipe.pipe.transformer = own


@pytest.fixture(scope="module")
def expected(pipe, matrices):
    with changed_transformer(pipe, {layer: 0.8 * b @ a for layer, (a, b) in matrices.items()}):
        return draw(pipe)


@pytest.fixture(scope="module")
def plain(pipe):
    return draw(pipe)


def write(path, tensors, **options):
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, **options)
    return path


def spelled(matrices, name, kinds=("lora_A.weight", "lora_B.weight")):
    """Tensors of a file, with a layer's name as `name` gives it."""
    return {
        name(layer) + f".{kind}": x for layer, pair in matrices.items() for kind, x in zip(kinds, pair, strict=True)
    }


def fused(matrices):
    """Query, key and value as one layer, and `out` for `to_out.0`, as Z-Image's own checkpoint has them."""
    found = {}
    for block in BLOCKS:
        found[f"{block}.attention.qkv"] = (
            matrices[f"{block}.{Q}"][0],
            torch.cat([matrices[f"{block}.{part}"][1] for part in (Q, K, V)]),
        )
        found[f"{block}.attention.out"] = matrices[f"{block}.{OUT}"]
        found[f"{block}.{W1}"] = matrices[f"{block}.{W1}"]
    return found


def with_alpha(tensors, alpha=8.0):
    """The same LoRA with an alpha: A is smaller by what alpha / rank makes it larger."""
    a = ("lora_A.weight", "lora_down.weight", "lora.down.weight")
    out = {name: x * RANK / alpha if name.endswith(a) else x for name, x in tensors.items()}
    return out | {
        re.sub(r"\.lora[_.](A|down)\.weight$", ".alpha", name): torch.tensor(alpha)
        for name in tensors
        if name.endswith(a)
    }


DOWN, DOTS = ("lora_down.weight", "lora_up.weight"), ("lora.down.weight", "lora.up.weight")


def underscored(prefix):
    return lambda layer: prefix + layer.replace(".", "_")


SPELLINGS = {
    "diffusers": lambda m: spelled(m, lambda x: f"transformer.{x}"),
    "no prefix": lambda m: spelled(m, str),
    "peft": lambda m: spelled(m, lambda x: f"base_model.model.{x}"),
    "peft, named": lambda m: spelled(
        m, lambda x: f"base_model.model.{x}", ("lora_A.default.weight", "lora_B.default.weight")
    ),
    "diffusion_model": lambda m: spelled(m, lambda x: f"diffusion_model.{x}"),
    "model.diffusion_model": lambda m: spelled(m, lambda x: f"model.diffusion_model.{x}"),
    "down and up": lambda m: spelled(m, lambda x: f"transformer.{x}", DOWN),
    "down and up, alpha": lambda m: with_alpha(spelled(m, lambda x: f"transformer.{x}", DOWN)),
    "kohya": lambda m: with_alpha(spelled(m, underscored("lora_unet_"), DOWN)),
    "lora_transformer": lambda m: with_alpha(spelled(m, underscored("lora_transformer_"), DOWN)),
    "lycoris": lambda m: with_alpha(spelled(m, underscored("lycoris_"), DOWN), 2.0),
    "dots": lambda m: with_alpha(spelled(m, lambda x: x.replace("to_q", "to.q"), DOTS)),
    "fused": lambda m: spelled(fused(m), lambda x: f"diffusion_model.{x}"),
    "fused, kohya": lambda m: with_alpha(spelled(fused(m), underscored("lora_unet_"), DOWN)),
    "fused and split": lambda m: spelled(m | fused(m), lambda x: f"diffusion_model.{x}"),
    "compiled": lambda m: spelled(m, lambda x: f"_orig_mod.{x}"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_same_matrices_in_each_spelling(pipe, matrices, expected, tmp_path, spelling):
    pipe.load_lora(write(tmp_path / "x.safetensors", SPELLINGS[spelling](matrices)), 0.8)
    assert (
        pipe._loras.loaded["x"].type == "lora" and np.abs(draw(pipe) - expected).max() <= 1
    )  # factors one by one round otherwise than their product


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_are_equal_to_the_bit(pipe, matrices, tmp_path, spelling):
    one = read_lora(write(tmp_path / "a.safetensors", SPELLINGS["diffusers"](matrices)), pipe.pipe.transformer).tensors
    other = read_lora(write(tmp_path / "b.safetensors", SPELLINGS[spelling](matrices)), pipe.pipe.transformer).tensors
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(pipe, matrices, tmp_path, dtype):
    half = {name: pair and tuple(x.to(getattr(torch, dtype)) for x in pair) for name, pair in matrices.items()}
    pipe.load_lora(write(tmp_path / "x.safetensors", SPELLINGS["fused, kohya"](half)), 0.8)
    with changed_transformer(
        pipe_without_lora(pipe), {layer: 0.8 * b.float() @ a.float() for layer, (a, b) in half.items()}
    ):
        wanted = draw(pipe)
    pipe.load_lora(tmp_path / "x.safetensors", 0.8)
    assert np.abs(draw(pipe) - wanted).max() <= 1


def pipe_without_lora(pipe):
    pipe.unload_lora()
    return pipe


def test_fp8_without_scales_is_read_as_numbers(pipe, matrices, tmp_path):
    small = {name: tuple(x.to(torch.float8_e4m3fn) for x in pair) for name, pair in matrices.items()}
    read = read_lora(write(tmp_path / "x.safetensors", SPELLINGS["diffusers"](small)), pipe.pipe.transformer)
    name = next(iter(matrices))
    assert torch.equal(read.tensors[f"transformer.{name}.lora_A.weight"], small[name][0].float())


# ---- alpha


def test_alpha_of_metadata(pipe, matrices, expected, tmp_path):
    """diffusers and peft write alpha and rank into metadata alone; patterns are names, not regular expressions."""
    halved = {layer: (a / 2, b) for layer, (a, b) in matrices.items()}
    noted = {
        "transformer.r": RANK,
        "transformer.lora_alpha": 2 * RANK,
        "transformer.target_modules": ["(a+)+$"],
        "transformer.rank_pattern": {},
        "transformer.alpha_pattern": {},
    }
    tensors = SPELLINGS["diffusers"](halved)
    pipe.load_lora(
        write(tmp_path / "x.safetensors", tensors, metadata={"lora_adapter_metadata": json.dumps(noted)}), 0.8
    )
    assert np.abs(draw(pipe) - expected).max() <= 1
    noted["transformer.alpha_pattern"] = {"layers.*": 3}
    with pytest.raises(ValueError, match="alpha_pattern"):
        read_lora(
            write(tmp_path / "y.safetensors", tensors, metadata={"lora_adapter_metadata": json.dumps(noted)}),
            pipe.pipe.transformer,
        )
    noted |= {"transformer.alpha_pattern": {}, "transformer.r": 99}
    with pytest.raises(ValueError, match="rank 99"):
        read_lora(
            write(tmp_path / "y.safetensors", tensors, metadata={"lora_adapter_metadata": json.dumps(noted)}),
            pipe.pipe.transformer,
        )


def test_alpha_of_a_peft_folder(pipe, matrices, expected, tmp_path):
    write(
        tmp_path / "adapter_model.safetensors",
        SPELLINGS["peft"]({layer: (a / 2, b) for layer, (a, b) in matrices.items()}),
    )
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(
            dict(peft_type="LORA", r=RANK, lora_alpha=4 * RANK, use_rslora=True, rank_pattern={}, alpha_pattern={})
        )
    )
    pipe.load_lora(tmp_path, 0.8 * 2 / (4 * RANK / RANK**0.5), name="folder")
    assert np.abs(draw(pipe) - expected).max() <= 1


def test_different_ranks_and_alphas(pipe, tmp_path):
    ranks = {
        f"layers.0.{Q}": (2, 1.0),
        f"layers.0.{K}": (4, 4.0),
        f"layers.1.{Q}": (8, 16.0),
        f"layers.10.{Q}".replace("10", "2"): (8, None),
    }
    tensors, deltas = {}, {}
    for layer, (rank, alpha) in ranks.items():
        a, b = random(rank, 160, seed=rank), random(160, rank, seed=rank + 1)
        tensors |= {f"diffusion_model.{layer}.lora_A.weight": a, f"diffusion_model.{layer}.lora_B.weight": b}
        if alpha is not None:
            tensors[f"diffusion_model.{layer}.alpha"] = torch.tensor(alpha)
        deltas[layer] = (alpha or rank) / rank * b @ a
    with changed_transformer(pipe, deltas):
        wanted = draw(pipe)
    pipe.load_lora(write(tmp_path / "x.safetensors", tensors))
    assert np.abs(draw(pipe) - wanted).max() <= 1


# ---- LoKr

LOKR = {
    "two full factors": {
        "lokr_w1": random(4, 4),
        "lokr_w2": random(40, 40, seed=1),
        "alpha": torch.tensor(9999999999.0),
    },
    "odd sizes": {"lokr_w1": random(2, 5), "lokr_w2": random(80, 32, seed=1)},
    "second factor a product": {
        "lokr_w1": random(8, 8),
        "lokr_w2_a": random(20, 3, seed=1),
        "lokr_w2_b": random(3, 20, seed=2),
        "alpha": torch.tensor(1.5),
    },
    "both products": {
        "lokr_w1_a": random(8, 2),
        "lokr_w1_b": random(2, 4),
        "lokr_w2_a": random(20, 2, seed=1),
        "lokr_w2_b": random(2, 40, seed=2),
        "alpha": torch.tensor(1.0),
    },
}


def kron(factors):
    w1 = factors["lokr_w1"] if "lokr_w1" in factors else factors["lokr_w1_a"] @ factors["lokr_w1_b"]
    w2 = factors["lokr_w2"] if "lokr_w2" in factors else factors["lokr_w2_a"] @ factors["lokr_w2_b"]
    scale = factors["alpha"].item() / len(factors["lokr_w2_b"]) if "lokr_w2_b" in factors else 1
    return scale * torch.kron(w1, w2)


@pytest.mark.parametrize("name", LOKR)
@pytest.mark.parametrize("spelling", [lambda x: f"diffusion_model.{x}", underscored("lycoris_"), str])
def test_lokr(pipe, tmp_path, name, spelling):
    layers = [f"layers.1.{Q}", f"layers.2.{OUT}"]
    with changed_transformer(pipe, {layer: 0.7 * kron(LOKR[name]) for layer in layers}):
        wanted = draw(pipe)
    file = write(
        tmp_path / "x.safetensors",
        {f"{spelling(layer)}.{kind}": x for layer in layers for kind, x in LOKR[name].items()},
    )
    pipe.load_lora(file, 0.7)
    assert pipe._loras.loaded["x"].type == "lokr" and np.abs(draw(pipe) - wanted).max() <= 1


@pytest.mark.parametrize("rows", [3, 4])
def test_fused_lokr(pipe, tmp_path, rows):
    """Rows of the first factor are divided among query, key and value; four cannot be."""
    factors = {"lokr_w1": random(rows, 4), "lokr_w2": random(480 // rows, 40, seed=1)}
    with changed_transformer(
        pipe, {f"layers.1.{part}": delta for part, delta in zip((Q, K, V), kron(factors).split(160), strict=True)}
    ):
        wanted = draw(pipe)
    pipe.load_lora(
        write(
            tmp_path / "x.safetensors",
            {f"diffusion_model.layers.1.attention.qkv.{kind}": x for kind, x in factors.items()},
        )
    )
    assert np.abs(draw(pipe) - wanted).max() <= 1


def test_lora_and_lokr_together(pipe, matrices, plain, tmp_path):
    one = write(tmp_path / "one.safetensors", SPELLINGS["fused"](matrices))
    two = write(
        tmp_path / "two.safetensors",
        {f"diffusion_model.layers.0.{Q}.{kind}": x for kind, x in LOKR["two full factors"].items()},
    )
    deltas = {layer: 0.5 * b @ a for layer, (a, b) in matrices.items()}
    both = deltas | {f"layers.0.{Q}": deltas[f"layers.0.{Q}"] - 0.3 * kron(LOKR["two full factors"])}
    with changed_transformer(pipe, deltas):
        wanted = draw(pipe)
    with changed_transformer(pipe, both):
        wanted_both = draw(pipe)
    for first, second in ((one, two), (two, one)):
        for file in (first, second):
            pipe.load_lora(file, 0.5 if file is one else -0.3)
        assert np.abs(draw(pipe) - wanted_both).max() <= 1
        pipe.unload_lora("two")
        assert np.abs(draw(pipe) - wanted).max() <= 1
        pipe.unload_lora()
        assert (draw(pipe) == plain).all()


# ---- what is refused, before anything is changed

A, B = random(RANK, 160), random(160, RANK)
PAIR = {f"transformer.layers.0.{Q}.lora_A.weight": A, f"transformer.layers.0.{Q}.lora_B.weight": B}
FIRST, SECOND = PAIR
WIDE = random(4, 3072)
REFUSED = {
    "LoHa": (
        {f"lycoris_layers_0_attention_to_q.hada_{k}": A for k in ("w1_a", "w1_b", "w2_a", "w2_b")},
        "LoHa is not supported",
    ),
    "diff": ({f"diffusion_model.layers.0.{Q}.diff": A}, r"\.diff\) is not supported"),
    "diff_b": (PAIR | {"diffusion_model.layers.0.adaLN_modulation.0.diff_b": A[0]}, r"diff_b\) is not supported"),
    "DoRA": (PAIR | {f"transformer.layers.0.{Q}.dora_scale": B[:, :1]}, "DoRA is not supported"),
    "DoRA of peft": (PAIR | {f"transformer.layers.0.{Q}.lora_magnitude_vector": B[:, 0]}, "DoRA is not supported"),
    "bias": (PAIR | {f"transformer.layers.0.{Q}.lora_B.bias": B[:, 0]}, "LoRA with biases is not supported"),
    "scaled fp8": (
        PAIR | {f"transformer.layers.0.{Q}.lora_A.weight_scale": torch.tensor(2.0)},
        "scaled fp8 LoRA is not supported",
    ),
    "unknown": (PAIR | {"transformer.layers.0.note": A}, "layers.0.note is not a tensor of a LoRA"),
    "FLUX": (
        {
            f"transformer.single_transformer_blocks.0.attn.to_q.lora_{k}.weight": x
            for k, x in (("A", WIDE), ("B", WIDE.T))
        },
        "for another model",
    ),
    "FLUX, kohya": (
        {f"lora_unet_double_blocks_0_img_attn_qkv.lora_{k}.weight": x for k, x in (("down", WIDE), ("up", WIDE.T))},
        "for another model",
    ),
    "SDXL": (
        {f"lora_unet_down_blocks_0_resnets_0_conv1.lora_{k}.weight": random(4, 4, 3, 3) for k in ("down", "up")},
        "for another model",
    ),
    "Lumina": (
        {f"diffusion_model.layers.0.attention.qkv.lora_{k}.weight": x for k, x in (("A", WIDE), ("B", WIDE.T))},
        "for another model",
    ),
    "deeper": (
        PAIR | {f"transformer.layers.29.{Q}.lora_{k}.weight": x for k, x in (("A", A), ("B", B))},
        "for another model",
    ),
    "spelling": ({"blocks.7.query.lora_A.weight": A, "blocks.7.query.lora_B.weight": B}, "spelling that is not known"),
    "A alone": ({FIRST: A}, "no lora_B"),
    "B alone": ({SECOND: B}, "no lora_A"),
    "alpha alone": (PAIR | {f"transformer.layers.1.{Q}.alpha": torch.tensor(1.0)}, "alpha without matrices"),
    "ranks": ({FIRST: A, SECOND: B[:, :3]}, "rank 4"),
    "NaN": ({FIRST: A * float("nan"), SECOND: B}, "NaN or infinite"),
    "infinite": ({FIRST: A, SECOND: B / 0}, "NaN or infinite"),
    "NaN alpha": (PAIR | {f"transformer.layers.0.{Q}.alpha": torch.tensor(float("nan"))}, "NaN or infinite"),
    "many alphas": (PAIR | {f"transformer.layers.0.{Q}.alpha": torch.ones(2)}, "one positive number"),
    "one dimension": ({FIRST: A[0], SECOND: B[:, 0]}, "expected a matrix"),
    "rank 0": ({FIRST: A[:0], SECOND: B[:, :0]}, "expected a matrix"),
    "integers": ({FIRST: A.to(torch.int8), SECOND: B}, "floating-point"),
    "twice": (PAIR | {FIRST.removeprefix("transformer."): A, SECOND.removeprefix("transformer."): B * 2}, "twice"),
    "twice by adapter": (PAIR | {FIRST.replace(".weight", ".one.weight"): A}, "second A"),
    "two kinds": (
        PAIR | {f"transformer.layers.1.{Q}.{kind}": x for kind, x in LOKR["two full factors"].items()},
        "LoRA and a LoKr",
    ),
    "half a LoKr": ({f"diffusion_model.layers.1.{Q}.lokr_w1": A}, "lokr_w2"),
    "LoKr of another model": (
        {f"diffusion_model.layers.1.{Q}.lokr_w1": A, f"diffusion_model.layers.1.{Q}.lokr_w2": A},
        "for another model",
    ),
    "text encoder alone": (
        {"lora_te_layers_0_q.lora_down.weight": A, "lora_te_layers_0_q.lora_up.weight": B},
        "only a text encoder's",
    ),
    "empty": ({}, "no tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(pipe, tmp_path, name):
    tensors, message = REFUSED[name]
    modules = dict(pipe.pipe.transformer.named_modules())
    with pytest.raises(ValueError, match=message) as e:
        pipe.load_lora(write(tmp_path / "x.safetensors", tensors))
    assert len(str(e.value).replace(str(tmp_path), "")) < 300 and "\n" not in str(e.value)
    assert pipe.loras == {} and dict(pipe.pipe.transformer.named_modules()) == modules


def test_the_text_encoders_part_is_left_out_with_a_warning(pipe, matrices, expected, tmp_path):
    extra = {"lora_te_text_model_0_q_proj.lora_down.weight": A, "text_encoder.layers.0.lora_A.weight": A}
    with pytest.warns(UserWarning, match="2 tensors for a text encoder") as caught:
        pipe.load_lora(write(tmp_path / "x.safetensors", SPELLINGS["kohya"](matrices) | extra), 0.8)
    assert caught[0].filename == __file__ and np.abs(draw(pipe) - expected).max() <= 1


@pytest.mark.parametrize(
    "weight", ["0.8", float("nan"), float("inf"), True, None, [0.5], np.array([1.0, 2.0]), 1j, 10**400, -1e39]
)
def test_weights_that_are_no_numbers(pipe, tmp_path, weight):
    file = write(tmp_path / "x.safetensors", PAIR)
    with pytest.raises((ValueError, TypeError), match="weight"):
        pipe.load_lora(file, weight)
    pipe.load_lora(file, np.float32(0.5))
    with pytest.raises((ValueError, TypeError), match="weight"):
        pipe.set_lora_weight("x", weight)
    assert pipe.loras == {"x": 0.5} and type(pipe.loras["x"]) is float


@pytest.mark.parametrize("name", ["", " ", " x", "a\nb", 5])
def test_names_that_are_refused(pipe, tmp_path, name):
    with pytest.raises((ValueError, TypeError), match="name="):
        pipe.load_lora(write(tmp_path / "x.safetensors", PAIR), name=name)


def test_names_are_kept(pipe, tmp_path, plain):
    file = write(tmp_path / "style.v1.2.safetensors", PAIR)
    for name in (None, "style_v1_2", "keys", "weight", "Stil – rot", "lora_A"):
        pipe.load_lora(file, 0.1, name=name)
    assert list(pipe.loras) == ["style.v1.2", "style_v1_2", "keys", "weight", "Stil – rot", "lora_A"]
    with pytest.raises(ValueError, match="loaded already"):
        pipe.load_lora(file, name="keys")
    with changed_transformer(pipe_without_lora(pipe), {f"layers.0.{Q}": 0.6 * B @ A}):
        wanted = draw(pipe)
    for name in (None, "style_v1_2", "keys", "weight", "Stil – rot", "lora_A"):
        pipe.load_lora(file, 0.1, name=name)
    assert np.abs(draw(pipe) - wanted).max() <= 1


@pytest.mark.parametrize(
    "source", ["missing.safetensors", "no/such.safetensors", "a b", "", "../x/y", "llm-dit-test/no-such-lora"]
)
def test_no_such_file(pipe, source):
    with pytest.raises(ValueError, match="There is no file"):
        pipe.load_lora(source)


def test_a_folder_with_two_files(pipe, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", PAIR)
    with pytest.raises(ValueError, match=r"a.safetensors, b.safetensors"):
        pipe.load_lora(tmp_path)


# ---- a change that fails changes nothing


def state(pipe):
    """All that a LoRA may change."""
    transformer = pipe.pipe.transformer
    return dict(
        modules={name: id(module) for name, module in transformer.named_modules()},
        weights={name: x.clone() for name, x in transformer.state_dict().items()},
        scales={
            name: dict(module.scaling) for name, module in transformer.named_modules() if hasattr(module, "scaling")
        },
        active={
            name: list(module.active_adapters)
            for name, module in transformer.named_modules()
            if hasattr(module, "scaling")
        },
        adapters=list(getattr(transformer, "peft_config", {})),
        trained=[p.requires_grad for p in transformer.parameters()],
        shown=(pipe.loras, repr(pipe)),
        attention=_AttentionBackendRegistry.get_active_backend()[0],
        image=draw(pipe),
        recipe=pipe(PROMPT, seed=0, progress=False, num_inference_steps=1).recipe,
    )


def assert_same(before, after):
    for name, value in before.items():
        if name == "weights":
            assert value.keys() == after[name].keys() and all(
                torch.equal(x, after[name][key]) for key, x in value.items()
            )
        else:
            assert np.array_equal(value, after[name]) if name == "image" else value == after[name], name


def failing(monkeypatch, owner, name, error, after):
    """Let a call fail before or after it has done its work."""
    original = getattr(owner, name)

    def broken(*args, **kwargs):
        if after:
            original(*args, **kwargs)
        raise error

    monkeypatch.setattr(owner, name, broken)


def steps(pipe):
    """Inner calls of loading and unloading, by who owns them."""
    return {
        "load_lora_weights": (pipe.pipe, "load_lora_weights"),
        "set_adapters": (pipe.pipe, "set_adapters"),
        "inject": (peft, "inject_adapter_in_model"),
        "set_state": (peft, "set_peft_model_state_dict"),
        "delete_adapters": (pipe.pipe, "delete_adapters"),
        "unload_lora_weights": (pipe.pipe, "unload_lora_weights"),
        "record": (lora_module, "LoadedLora"),
        "hash": (lora_module, "lora_hash"),
        "put_lora": (lora_module, "put_lora"),
        "apply": (LoraStack, "_apply_weights"),
    }  # fmt: skip


LOADING = ("load_lora_weights", "set_adapters", "inject", "set_state", "record", "hash", "put_lora", "apply")


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("others", [False, True], ids=["first", "second"])
def test_load_is_undone(pipe, tmp_path, error, others):
    file = write(
        tmp_path / "x.safetensors",
        PAIR | {f"transformer.layers.1.{K}.lora_{k}.weight": x for k, x in (("A", A), ("B", B))},
    )
    if others:
        pipe.load_lora(file, 0.3, name="other")
    before = state(pipe)
    for step in LOADING:
        for after in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                failing(patch, *steps(pipe)[step], error, after)
                with pytest.raises(
                    KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else (RuntimeError, ValueError)
                ):
                    pipe.load_lora(file, 0.8)
    assert_same(before, state(pipe))
    pipe.load_lora(file, 0.8)
    assert pipe.loras == ({"other": 0.3} if others else {}) | {"x": 0.8}


@pytest.mark.parametrize("step", ["delete_adapters", "set_adapters", "apply"])
def test_partial_unload_is_undone(pipe, tmp_path, step):
    file = write(tmp_path / "x.safetensors", PAIR)
    pipe.load_lora(file, 0.3, name="one")
    pipe.load_lora(file, 0.4, name="two")
    before = state(pipe)
    for after in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, *steps(pipe)[step], KeyboardInterrupt(), after)
            with pytest.raises(KeyboardInterrupt):
                pipe.unload_lora("one")
    assert_same(before, state(pipe))


def test_unload_is_undone_and_weight_too(pipe, tmp_path):
    pipe.load_lora(write(tmp_path / "x.safetensors", PAIR), 0.3)
    before = state(pipe)
    for call, step in (
        (pipe.unload_lora, "unload_lora_weights"),
        (lambda: pipe.set_lora_weight("x", 5), "set_adapters"),
    ):
        for after in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                failing(patch, *steps(pipe)[step], KeyboardInterrupt(), after)
                with pytest.raises(KeyboardInterrupt):
                    call()
    assert_same(before, state(pipe))


OPTIONS = [
    dict(attention_backend="nonsense"),
    dict(attention_backend=5),
    dict(attention_backend="flash", compile=True),
    dict(cache_threshold="0.1"),
    dict(cache_threshold=float("nan")),
    dict(cache_threshold=-1),
    dict(compile="yes"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_pipeline_that_cannot_be_made_leaves_its_parts_alone(pipe, options):
    before = state(pipe)
    with pytest.raises(ValueError, match=next(iter(options))):
        ZImagePipeline(pipe.encoder, pipe.pipe, **options)
    with pytest.raises(ValueError, match=next(iter(options))):
        ZImagePipeline.from_pretrained("tiny", device="cpu", transformer=pipe.pipe.transformer, **options)
    assert_same(before, state(pipe))


def test_what_was_set_before_the_failure_is_taken_back(pipe, monkeypatch):
    before = state(pipe)
    monkeypatch.setattr(
        type(pipe.pipe.transformer), "compile_repeated_blocks", lambda self: (_ for _ in ()).throw(KeyboardInterrupt())
    )
    with pytest.raises(KeyboardInterrupt):
        ZImagePipeline(pipe.encoder, pipe.pipe, attention_backend="_native_math", cache_threshold=0.1, compile=True)
    assert_same(before, state(pipe))


def test_attention_of_one_pipeline_is_not_that_of_another(pipe):
    other = ZImagePipeline.from_pretrained("tiny", device="cpu", attention_backend="_native_math")
    assert (pipe.attention_backend, other.attention_backend) == ("native", "_native_math")
    assert _AttentionBackendRegistry.get_active_backend()[0].value == "native"


# ---- afterwards


def test_unload_and_load_again(pipe, plain, tmp_path, matrices):
    before = state(pipe)
    file = write(tmp_path / "x.safetensors", SPELLINGS["fused"](matrices))
    for _ in range(2):
        with pipe.load_lora(file, 0):
            assert (draw(pipe) == plain).all()
            pipe.set_lora_weight("x", -0.8)
            assert (draw(pipe) != plain).any()
        assert_same(before, state(pipe))


def test_adapters_of_others_are_named(pipe, tmp_path):
    pipe.pipe.load_lora_weights(dict(PAIR), adapter_name="theirs")
    with pytest.raises(ValueError, match="'theirs'"):
        pipe.load_lora(write(tmp_path / "x.safetensors", PAIR))
    pipe.pipe.unload_lora_weights()


def test_record_and_hash(pipe, tmp_path):
    """The hash is that of the tensors' bytes, as A1111 and Civitai count it, so that metadata does not change it."""
    one, two = (
        write(tmp_path / "one.safetensors", PAIR),
        write(tmp_path / "two.safetensors", PAIR, metadata={"note": "x"}),
    )
    assert lora_hash(one) == lora_hash(two) and re.fullmatch("[0-9a-f]{12}", lora_hash(one))
    pipe.load_lora(one, 0.5, name="n")
    assert pipe._loras.loaded["n"].record() == dict(
        name="n", file="one.safetensors", weight=0.5, type="lora", hash=lora_hash(one)
    )
    assert LoadedLora("n", "owner/name", 1.0, "lora", "0" * 12).record()["file"] == "owner/name"


def test_pickled(pipe, tmp_path, matrices, monkeypatch):
    pipe.load_lora(write(tmp_path / "x.safetensors", SPELLINGS["fused"](matrices)), 0.8)
    packed = pickle.dumps(pipe)
    monkeypatch.chdir("/")
    again = pickle.loads(packed)
    assert again.loras == {"x": 0.8} and (draw(again) == draw(pipe)).all()
    write(tmp_path / "x.safetensors", PAIR)
    with pytest.raises(ValueError, match="fingerprint"):
        pickle.loads(packed)


def test_nothing_is_warned_of_without_a_reason(pipe, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in "ab":
            pipe.load_lora(write(tmp_path / "x.safetensors", PAIR), name=name)
    assert pipe.loras == {"a": 1.0, "b": 1.0}, "both are there, and silence was no failure to load"


def test_loras_go_onto_the_pipeline_that_runs(pipe):
    own = pipe.pipe
    try:
        pipe.pipe = copy.copy(own)
        assert pipe._loras.pipe is pipe.pipe is not own
    finally:
        pipe.pipe = own
