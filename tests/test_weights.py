"""Weights in other forms: scaled float8, single files, GGUF, and tensors that nothing reads; models of other kinds,
names and paths.

Files are made from the embedded checkpoint, so that the right weights are known exactly.
"""

import json
import os
import shutil
import warnings
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_dit import BackendConfig, TransformersBackend, ZImagePipeline, ZImageTextEncoder, memory_plans
from llm_dit.encoding.model_files import hub_folder, resolve_model
from llm_dit.encoding.stored_weights import multiply_scale
from llm_dit.families.registry import USUAL, short_names
from llm_dit.generation.model_parts import generation_defaults, load_part

pytestmark = pytest.mark.side_by_side

TINY = Path(resolve_model("tiny"))
FILES = {
    "text_encoder": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
LAYERS = {"text_encoder": "layers.0.mlp.up_proj", "transformer": "layers.0.attention.to_q", "vae": "decoder.conv_in"}
QUICK = {"num_inference_steps": 1, "height": 32, "width": 32, "progress": False}
CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path):
    """A copy of the embedded checkpoint to change."""
    return Path(shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("training")))


@pytest.fixture(scope="module")
def usual():
    """The numbers of the embedded checkpoint, by part and by name."""
    return {part: load_file(TINY / part / file) for part, file in FILES.items()}


def load(part, source, dtype=torch.float32, **options):
    """A part by the door that users take, as tensors by name."""
    if part == "text_encoder":
        backend = TransformersBackend.from_pretrained(
            source, device="cpu", dtype=dtype, hidden_layer=-1, pack_weights=False, **options
        )
        return backend.model.state_dict()
    return load_part(part, source, BackendConfig(device="cpu", **options), dtype, CPU).state_dict()


def folder_of(part, model):
    """What is given to load a part of a model: an encoder finds its own."""
    return model


def sentence(error, call, *names, **options):
    """The one sentence that a call is refused with; it has to hold some names."""
    with pytest.raises(error) as raised:
        call(**options)
    said = str(raised.value)
    assert "\n" not in said and len(said) < 700, said
    for name in names:
        assert str(name) in said, f"{said} does not name {name}"
    return said


def matrices(weights):
    """Names of the tensors that other programs store in float8: matrices of layers and of convolutions."""
    return [name for name, x in weights.items() if x.dim() > 1 and name.endswith(".weight")]


def as_float8(weights, spelling, kind="tensor", dtype=torch.float8_e4m3fn, block=128):
    """Weights in float8 with their scales, and what they stand for."""
    stored, right = dict(weights), {name: x.float() for name, x in weights.items()}
    for name in matrices(weights):
        x = weights[name].float()
        if kind == "block" and x.dim() != 2:
            continue
        scale, spread = scale_of(x, kind, torch.finfo(dtype).max, block)
        stored[name] = (x / spread).to(dtype)
        right[name] = stored[name].float() * spread
        stored[f"{name.removesuffix('.weight')}.{spelling}"] = scale
    return {name: x.contiguous() for name, x in stored.items()}, right


def scale_of(x, kind, largest, block):
    """A scale as it is stored, and the same spread over the weight."""
    if kind == "block":
        parts = [[b.abs().max() for b in rows.split(block, 1)] for rows in x.split(block, 0)]
        scale = torch.tensor(parts) / largest
        return scale, scale.repeat_interleave(block, 0).repeat_interleave(block, 1)[: x.shape[0], : x.shape[1]]
    if kind == "tensor":
        scale = x.abs().max() / largest
        return scale, scale
    scale = x.flatten(1).abs().amax(1).clamp(min=1e-8) / largest
    return (scale if kind == "rows" else scale[:, None]), scale.reshape(-1, *[1] * (x.dim() - 1))


def write(part, model, weights, shards=1):
    """Put weights into the folder of a part, in one file or in shards."""
    folder, name = model / part, FILES[part]
    if shards == 1:
        save_file(weights, folder / name, metadata={"format": "pt"})
        return
    (folder / name).unlink()
    names, stem, index = sorted(weights), name.removesuffix(".safetensors"), {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05}-of-{shards:05}.safetensors"
        index |= {each: file for each in names[i::shards]}
        save_file({each: weights[each] for each in names[i::shards]}, folder / file, metadata={"format": "pt"})
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def assert_same(found, right, dtype=torch.float32):
    for name, x in found.items():
        assert x.dtype == dtype, name
        assert x.equal(right[name].to(dtype)), f"{name} is another matrix"


# The Hub


def put_on_hub(model, cache):
    """Lay a folder into the Hub's cache, as a download does, and return its id."""
    repository = cache / "models--nobody--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(model, repository / "snapshots" / ("a" * 40))
    return "nobody/model"


DAMAGES = {
    "int8": lambda weights, name: {**weights, name: weights[name].to(torch.int8)},
    "lacking": lambda weights, name: {each: x for each, x in weights.items() if each != name},
    "extra": lambda weights, name: {**weights, f"{name}.absmax": torch.ones(3)},
    "shape": lambda weights, name: {**weights, name: torch.cat([weights[name]] * 2)},
}


@pytest.mark.parametrize("part", FILES)
def test_scaled_float8_of_the_hub(model, usual, part, tmp_path):
    stored, right = as_float8(usual[part], "weight_scale")
    write(part, model, stored, shards=2)
    options = dict(cache_dir=str(tmp_path / "hub"), local_files_only=True)
    assert_same(load(part, put_on_hub(model, tmp_path / "hub"), **options), right)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", FILES)
def test_a_model_of_the_hub_is_looked_at_like_a_folder(model, usual, part, damage, tmp_path):
    name = f"{LAYERS[part]}.weight"
    write(part, model, DAMAGES[damage](usual[part], name))
    options = dict(device="cpu", cache_dir=str(tmp_path / "hub"), local_files_only=True)
    sentence(
        (ValueError, FileNotFoundError),
        lambda: ZImagePipeline.from_pretrained(put_on_hub(model, tmp_path / "hub"), **options),
        name,
    )


@pytest.mark.parametrize("part", FILES)
def test_a_tensor_in_two_files_of_the_hub(model, usual, part, tmp_path):
    write(part, model, usual[part], shards=2)
    first, second = sorted((model / part).glob("*-of-*.safetensors"))
    (name, x), *_ = load_file(first).items()
    save_file({**load_file(second), name: x}, second, metadata={"format": "pt"})
    options = dict(device="cpu", cache_dir=str(tmp_path / "hub"), local_files_only=True)
    sentence(
        FileNotFoundError, lambda: ZImagePipeline.from_pretrained(put_on_hub(model, tmp_path / "hub"), **options), name
    )


def test_the_hub_gives_the_files_that_are_named(model, usual, tmp_path, monkeypatch):
    """Configurations first, and of the weights only what they name.

    What a broken download lacks is asked for again.
    """
    write("transformer", model, usual["transformer"], shards=2)
    hub, asked = put_on_hub(model, tmp_path / "hub"), []

    def download(name, allow_patterns, **options):
        asked.append(allow_patterns)
        return str(tmp_path / "hub" / "models--nobody--model" / "snapshots" / ("a" * 40))

    monkeypatch.setattr("llm_dit.encoding.model_files.snapshot_download", download)
    hub_folder(hub, ["transformer", "vae"])
    assert asked[1] == [f"transformer/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)] + [
        "vae/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


# Parts that the caller loaded

SMALL = dict(
    block_out_channels=(8, 8, 8, 8),
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    norm_num_groups=8,
)
VAES = {
    "of SDXL": (
        lambda: diffusers.AutoencoderKL(latent_channels=4, shift_factor=0.1, **SMALL),
        "latent_channels is 4; expected 16",
    ),
    "without a shift": (lambda: diffusers.AutoencoderKL(latent_channels=16, **SMALL), "shift_factor"),
    "of half the depth": (
        lambda: diffusers.AutoencoderKL(
            latent_channels=16,
            shift_factor=0.1,
            **{name: value[:2] if isinstance(value, (list, tuple)) else value for name, value in SMALL.items()},
        ),
        "sides is 2; expected 8",
    ),
    "of grey images": (
        lambda: diffusers.AutoencoderKL(latent_channels=16, shift_factor=0.1, out_channels=1, **SMALL),
        "out_channels is 1; expected 3",
    ),
    "of another class": (
        lambda: diffusers.AutoencoderTiny(latent_channels=16),
        "AutoencoderTiny; expected AutoencoderKL",
    ),
    "without numbers": (
        lambda: diffusers.AutoencoderKL(latent_channels=16, shift_factor=0.1, **SMALL).to("meta"),
        "no numbers",
    ),
    "a number": (lambda: 5, "vae is of the class int"),
}


@pytest.mark.parametrize("name", VAES)
def test_a_vae_that_does_not_fit(name, model):
    """Given as an object, or in the model's folder: told before anything is computed."""
    make, why = VAES[name]
    sentence(ValueError, lambda: ZImagePipeline.from_pretrained("tiny", device="cpu", vae=make()), why)
    if isinstance(vae := make(), diffusers.AutoencoderKL) and not vae.device.type == "meta":
        shutil.rmtree(model / "vae")
        vae.save_pretrained(model / "vae")
        sentence(ValueError, lambda: ZImagePipeline.from_pretrained(model, device="cpu"), why)


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda usual: torch.nn.Linear(2, 2), "Linear; expected ZImageTransformer2DModel"),
        (
            lambda usual: diffusers.ZImageTransformer2DModel.from_config({**usual.config, "in_channels": 8}),
            "latent_channels is 16; expected 8",
        ),
        (lambda usual: 5, "transformer is of the class int"),
    ],
)
def test_a_transformer_that_does_not_fit(make, why):
    usual = load_part("transformer", "tiny", BackendConfig(device="cpu"), torch.float32, CPU)
    sentence(ValueError, lambda: ZImagePipeline.from_pretrained("tiny", device="cpu", transformer=make(usual)), why)


def test_a_text_encoder_that_is_none():
    sentence(
        ValueError,
        lambda: ZImagePipeline.from_pretrained("tiny", device="cpu", text_encoder=5),
        "text_encoder is a int",
    )


def test_a_scheduler_that_counts_other_steps(model):
    """diffusers' pipeline divides by 1000: with 10, every step would be taken as one near the image."""
    change_json(model / "scheduler" / "scheduler_config.json", num_train_timesteps=10)
    pipe = ZImagePipeline.from_pretrained(model, device="cpu")
    sentence(ValueError, lambda: pipe("a red circle", **QUICK), "num_train_timesteps", "1000")


@pytest.mark.parametrize("kind", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_the_shift_of_other_schedulers_names_the_model(kind):
    """They call it `flow_shift`."""
    scheduler = getattr(diffusers, kind)(use_flow_sigmas=True, flow_shift=6.0, prediction_type="flow_prediction")
    assert generation_defaults(scheduler, USUAL.drawing()) == USUAL.drawing().defaults[6.0]


# Scaled float8


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    "spelling, kind",
    [
        ("weight_scale", "tensor"),
        ("scale_weight", "tensor"),
        ("weight_scale", "rows"),
        ("weight_scale", "column"),
        ("weight_scale_inv", "block"),
    ],
)
@pytest.mark.parametrize("part", FILES)
def test_scales_are_multiplied_in(model, usual, part, spelling, kind, shards):
    stored, right = as_float8(usual[part], spelling, kind)
    write(part, model, stored, shards)
    assert_same(load(part, model), right)


@pytest.mark.parametrize("part", FILES)
def test_float8_e5m2_in_bfloat16_with_the_mark_of_comfyui(model, usual, part):
    stored, right = as_float8(usual[part], "scale_weight", dtype=torch.float8_e5m2)
    write(part, model, {**stored, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e5m2)})
    assert_same(load(part, model, torch.bfloat16), right, torch.bfloat16)


@pytest.mark.parametrize("part", FILES)
def test_float8_without_a_scale_is_what_it_is(model, usual, part):
    stored = {
        name: x.to(torch.float8_e4m3fn) if name in matrices(usual[part]) else x for name, x in usual[part].items()
    }
    write(part, model, stored)
    assert_same(load(part, model), {name: x.float() for name, x in stored.items()})


def test_a_block_is_128_wide_and_not_an_equal_share():
    """160 rows are a block of 128 and one of 32."""
    weight, scale = torch.ones(160, 300).to(torch.float8_e4m3fn), torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    spread = multiply_scale(weight, scale)
    assert (
        spread[127, 0] == 1
        and spread[128, 0] == 4
        and spread[0, 127] == 1
        and spread[0, 128] == 2
        and spread[0, 255] == 2
        and spread[159, 299] == 6
    )


@pytest.mark.parametrize("part", ["text_encoder"])
def test_float8_of_transformers_names_its_blocks(model, usual, part):
    """`quantization_config` of transformers' own float8: no GPU is needed to read it."""
    stored, right = as_float8(usual[part], "weight_scale_inv", "block", block=64)
    write(part, model, stored)
    change_json(
        model / part / "config.json",
        quantization_config={"quant_method": "fp8", "weight_block_size": [64, 64], "activation_scheme": "dynamic"},
    )
    assert_same(load(part, model), right)


def test_scaled_image_is_near_the_usual_one(model, usual):
    for part in FILES:
        write(part, model, as_float8(usual[part], "weight_scale")[0])
    wanted, found = (
        torch.as_tensor(
            list(ZImagePipeline.from_pretrained(m, device="cpu")("a red circle", progress=False).image.tobytes())
        ).float()
        for m in ("tiny", model)
    )
    assert (wanted - found).abs().mean() < 12, "17.6 and more if scales are left out"


@pytest.mark.parametrize("part", FILES)
def test_activation_scales_are_reported_or_known(model, usual, part):
    write(part, model, {**as_float8(usual[part], "weight_scale")[0], f"{LAYERS[part]}.input_scale": torch.ones(())})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(load(part, model), as_float8(usual[part], "weight_scale")[1])


@pytest.mark.parametrize("part", FILES)
def test_a_scale_that_is_no_number(model, usual, part):
    """Exponents as bytes, as MXFP8 has them: 127 stands for 1."""
    stored, _ = as_float8(usual[part], "weight_scale")
    write(part, model, {**stored, f"{LAYERS[part]}.weight_scale": torch.tensor([127], dtype=torch.uint8)})
    sentence(
        (ValueError, FileNotFoundError),
        lambda: load(part, model),
        f"{LAYERS[part]}.weight_scale",
        "U8",
        "floating-point",
    )


@pytest.mark.parametrize("scale, why", [(torch.ones(7), "7"), (torch.ones(2, 2, 2), "2"), (torch.ones(5, 9), "9")])
@pytest.mark.parametrize("part", FILES)
def test_a_scale_that_does_not_fit(model, usual, part, scale, why):
    stored, _ = as_float8(usual[part], "weight_scale")
    write(part, model, {**stored, f"{LAYERS[part]}.weight_scale": scale})
    sentence(
        (ValueError, FileNotFoundError), lambda: load(part, model), FILES[part], f"{LAYERS[part]}.weight_scale", why
    )


# Tensors that nothing reads


FOREIGN = [
    "comfy_quant",
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight.absmax",
    "weight.quant_map",
    "weight.quant_state.bitsandbytes__nf4",
    "SCB",
    "weight_scale_2",
    "weight_packed",
    "weight_zero_point",
    "unheard_of",
    "lora_A.weight",
    "weight_scale",
    "weight_scale_inv",
]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("part", FILES)
def test_other_companions_are_refused_by_name(model, usual, part, name, shards):
    """The weights themselves are as usual, so that only the companion can tell.

    A scale beside a weight that is not float8 is one of these.
    """
    extra = f"{LAYERS[part]}.{name}"
    write(part, model, {**usual[part], extra: torch.ones(4)}, shards)
    said = sentence((ValueError, FileNotFoundError), lambda: load(part, model), extra)
    assert ".safetensors" in said, f"{said} does not name the file"


@pytest.mark.parametrize("part", FILES)
def test_a_single_file_with_a_companion_is_refused(tmp_path, usual, part):
    extra = f"{LAYERS[part]}.comfy_quant"
    save_file({**usual[part], extra: torch.ones(4)}, tmp_path / "one.safetensors")
    sentence(
        (ValueError, FileNotFoundError), lambda: load(part, tmp_path / "one.safetensors"), "one.safetensors", extra
    )


def test_two_spellings_of_one_tensor(model, usual, tmp_path):
    """transformers takes one of them without a word."""
    name = f"{LAYERS['text_encoder']}.weight"
    both = {**usual["text_encoder"], f"model.{name}": usual["text_encoder"][name] * 2}
    write("text_encoder", model, both)
    save_file(both, tmp_path / "one.safetensors")
    for source in (model, tmp_path / "one.safetensors"):
        sentence(
            (ValueError, FileNotFoundError),
            lambda source=source: load("text_encoder", source),
            f"model.{name} beside {name}",
        )


@pytest.mark.parametrize("name", ["lm_head.weight", "rotary_emb.inv_freq", "model.rotary_emb.inv_freq"])
def test_leftovers_of_a_language_model_are_harmless(model, usual, name):
    write("text_encoder", model, {**usual["text_encoder"], name: torch.ones(16)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load("text_encoder", model), {name: x.float() for name, x in usual["text_encoder"].items()})


def test_only_layers_of_this_model_may_be_left_out(model, usual):
    """Layer 4 of 5 is above the state that is read; a layer 5 is none of this model."""
    write("text_encoder", model, {**usual["text_encoder"], "layers.5.mlp.up_proj.weight": torch.ones(288, 128)})
    sentence(
        (ValueError, FileNotFoundError),
        lambda: TransformersBackend.from_pretrained(model, device="cpu"),
        "layers.5.mlp.up_proj.weight",
        FILES["text_encoder"],
    )


def test_a_leftover_of_one_part_is_none_of_another(model, usual):
    write("vae", model, {**usual["vae"], "lm_head.weight": torch.ones(4)})
    sentence((ValueError, FileNotFoundError), lambda: load("vae", model), "lm_head.weight")
    write("transformer", model, {**usual["transformer"], "layers.0.norm_final.weight": torch.ones(4)})
    sentence((ValueError, FileNotFoundError), lambda: load("transformer", model), "layers.0.norm_final.weight")


@pytest.mark.parametrize("part", FILES)
def test_a_file_that_is_not_read_is_named(model, usual, part):
    """A second file in the folder, which neither library opens."""
    save_file({f"{LAYERS[part]}.weight": torch.ones(2)}, model / part / "other.safetensors")
    with pytest.warns(UserWarning, match="other.safetensors"):
        load(part, model)


def test_quantised_folders_with_their_own_description_are_left_to_the_libraries(model, usual):
    """The companions that a `quantization_config` announces are no surprise.

    Bitsandbytes itself is not installed here.
    """
    change_json(
        model / "transformer" / "config.json",
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
    )
    write("transformer", model, {**usual["transformer"], "layers.0.attention.to_q.weight.absmax": torch.ones(4)})
    said = sentence(
        (ValueError, FileNotFoundError, ImportError), lambda: ZImagePipeline.from_pretrained(model, device="cpu")
    )
    assert "no quantization_config" not in said and "itsandbytes" in said, said


# Single files


def comfy_transformer(weights, prefix="model.diffusion_model."):
    """A transformer under the names of the original code, with fused attention."""
    made = {}
    for name, x in weights.items():
        name = name.replace("all_final_layer.2-1.", "final_layer.").replace("all_x_embedder.2-1.", "x_embedder.")
        for theirs, ours in {
            "attention.to_out.0.": "attention.out.",
            "attention.norm_q.": "attention.q_norm.",
            "attention.norm_k.": "attention.k_norm.",
        }.items():
            name = name.replace(theirs, ours)
        if ".attention.to_q." in name:
            q = name.replace("to_q", "qkv")
            made[prefix + q] = torch.cat([weights[name.replace("to_q", f"to_{which}")] for which in "qkv"])
        elif not any(f".attention.to_{which}." in name for which in "kv"):
            made[prefix + name] = x
    return made


def comfy_vae(weights, prefix=""):
    """A VAE under the names of the original code, as in ae.safetensors."""
    made = {}
    for name, x in weights.items():
        for theirs, ours in {
            "conv_norm_out": "norm_out",
            "conv_shortcut": "nin_shortcut",
            "mid_block.resnets.0": "mid.block_1",
            "mid_block.resnets.1": "mid.block_2",
        }.items():
            name = name.replace(theirs, ours)
        if "down_blocks." in name:
            name = (
                name.replace("down_blocks.", "down.")
                .replace(".resnets.", ".block.")
                .replace("downsamplers.0", "downsample")
            )
        if "up_blocks." in name:
            i = int(name.split(".")[2])
            name = (
                name.replace(f"up_blocks.{i}", f"up.{3 - i}")
                .replace(".resnets.", ".block.")
                .replace("upsamplers.0", "upsample")
            )
        made[prefix + name] = x
    return made


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_of_comfyui(tmp_path, usual, prefix):
    save_file(comfy_transformer(usual["transformer"], prefix), tmp_path / "z_image_turbo_bf16.safetensors")
    pipe, plain = (
        ZImagePipeline.from_pretrained("tiny", device="cpu", **given)
        for given in ({"transformer": str(tmp_path / "z_image_turbo_bf16.safetensors")}, {})
    )
    with pytest.warns(UserWarning, match="steps"):
        made = pipe("a red circle", height=32, width=32, progress=False)
    assert (
        made.image.tobytes() == plain("a red circle", height=32, width=32, progress=False).image.tobytes()
        and made.recipe.num_inference_steps == 8
    )


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_vae_of_comfyui(tmp_path, usual, prefix):
    save_file(comfy_vae(usual["vae"], prefix), tmp_path / "ae.safetensors")
    assert_same(load("vae", tmp_path / "ae.safetensors"), {name: x.float() for name, x in usual["vae"].items()})


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_text_encoder_of_comfyui(tmp_path, usual, prefix):
    save_file({prefix + name: x for name, x in usual["text_encoder"].items()}, tmp_path / "qwen_3_4b.safetensors")
    one, plain = (
        ZImageTextEncoder.from_pretrained(source, device="cpu")
        for source in (str(tmp_path / "qwen_3_4b.safetensors"), "tiny")
    )
    assert one.encode("a red circle").embedding.equal(plain.encode("a red circle").embedding)
    pipe = ZImagePipeline.from_pretrained(
        "tiny", device="cpu", text_encoder=tmp_path / "qwen_3_4b.safetensors", memory="balanced"
    )
    assert pipe("a cat", **QUICK).image.tobytes() == pipe("a cat", **QUICK).image.tobytes(), "read again from its file"


@pytest.mark.parametrize(
    "part, rename",
    [
        ("transformer", comfy_transformer),
        ("vae", comfy_vae),
        ("text_encoder", lambda weights: {f"model.{name}": x for name, x in weights.items()}),
    ],
)
def test_single_files_in_scaled_float8(tmp_path, usual, part, rename):
    stored, right = as_float8(rename(usual[part]), "scale_weight")
    file = tmp_path / "fp8.safetensors"
    save_file({**stored, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, file)
    save_file({name: x.contiguous() for name, x in right.items()}, tmp_path / "plain.safetensors")
    assert_same(load(part, file), load(part, tmp_path / "plain.safetensors"))


@pytest.mark.parametrize("part, rename", [("transformer", comfy_transformer), ("vae", comfy_vae)])
def test_a_tensor_that_a_conversion_would_drop_is_refused(tmp_path, usual, part, rename):
    save_file({**rename(usual[part]), "decoder.extra.weight": torch.ones(3)}, tmp_path / "one.safetensors")
    sentence(
        (ValueError, FileNotFoundError),
        lambda: load(part, tmp_path / "one.safetensors"),
        "decoder.extra.weight",
        "one.safetensors",
    )


@pytest.mark.parametrize("part", FILES)
def test_a_single_file_of_another_model(tmp_path, part):
    save_file({"layers.0.weight": torch.ones(3, 3), "conv.bias": torch.ones(3)}, tmp_path / "one.safetensors")
    sentence(
        (ValueError, FileNotFoundError),
        lambda: load(part, tmp_path / "one.safetensors"),
        "one.safetensors",
        "config.json",
    )


@pytest.mark.parametrize("part", FILES)
def test_the_folder_of_a_part(model, usual, part):
    """`transformer="…/model/transformer"`, and the folder of an encoder, whose tokenizer lies beside it."""
    assert_same(load(part, f"{model / part}/"), {name: x.float() for name, x in usual[part].items()})


def write_gguf(path, weights, kind="Q8_0"):
    """A GGUF file by the library of llama.cpp."""
    gguf = pytest.importorskip("gguf")
    kind, writer = gguf.GGMLQuantizationType[kind], gguf.GGUFWriter(str(path), "lumina2")
    for name, x in weights.items():
        x = x.float().numpy()
        if x.ndim == 2 and x.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_transformer_in_gguf(tmp_path, usual):
    file = write_gguf(tmp_path / "z_image_turbo-Q8_0.gguf", comfy_transformer(usual["transformer"], ""))
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu", transformer=file)
    made = pipe("a red circle", **QUICK)
    assert (
        "Q8_0" in made.recipe.quantization
        and pipe.reproduce(made.recipe, progress=False).image.tobytes() == made.image.tobytes()
    )
    usual_image = ZImagePipeline.from_pretrained("tiny", device="cpu")("a red circle", **QUICK).image
    assert sum(abs(a - b) for a, b in zip(made.image.tobytes(), usual_image.tobytes())) / (32 * 32 * 3) < 8


def test_gguf_files_that_are_refused(tmp_path, usual, monkeypatch):
    whole = comfy_transformer(usual["transformer"], "")
    extra = write_gguf(tmp_path / "extra.gguf", {**whole, "layers.0.attention.extra.weight": torch.ones(4, 32)})
    sentence(
        (ValueError, FileNotFoundError),
        lambda: load("transformer", extra),
        "extra.gguf",
        "layers.0.attention.extra.weight",
    )
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(extra.read_bytes()[:2000])
    sentence((ValueError, FileNotFoundError), lambda: load("transformer", cut), "cut.gguf")
    sentence((ValueError, FileNotFoundError), lambda: load("text_encoder", cut), "cut.gguf")
    sentence(ValueError, lambda: load("vae", extra), "extra.gguf")
    sentence(ValueError, lambda: load("transformer", extra, quantization="int8"), "quantization")
    import importlib.util

    find = importlib.util.find_spec
    for module in ("llm_dit.generation.model_parts", "llm_dit.encoding.components"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None if name == "gguf" else find(name))
    for part in ("transformer", "text_encoder"):
        sentence((ValueError, ImportError), lambda part=part: load(part, extra), "pip install 'llm-dit[gguf]'")


# Names and paths


@pytest.mark.parametrize(
    "name",
    [
        "no/such/folder",
        "./none",
        "~/no_such_model",
        "/nowhere",
        "one/model.safetensors",
        "model.gguf",
        "~no_such_user/model",
        "nowhere/",
        "weights.bin",
    ],
)
def test_a_path_that_is_not_there_is_one_sentence_at_once(monkeypatch, name):
    def asked(*args, **kwargs):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("llm_dit.encoding.model_files.cached_file", asked)
    for call in (
        ZImageTextEncoder.from_pretrained,
        ZImagePipeline.from_pretrained,
        memory_plans,
        lambda x: load_part("vae", x, BackendConfig(), torch.float32, CPU),
    ):
        sentence((FileNotFoundError, ValueError), lambda call=call: call(name), name.strip("~/"))
    for part in ("text_encoder", "transformer", "vae"):
        sentence(
            (FileNotFoundError, ValueError),
            lambda part=part: ZImagePipeline.from_pretrained("tiny", device="cpu", **{part: name}),
            name.strip("~/"),
        )


@pytest.mark.parametrize("wrong", ["", 5, None, b"tiny", "a\0b"])
def test_what_cannot_be_a_model(wrong):
    for call in (ZImageTextEncoder.from_pretrained, ZImagePipeline.from_pretrained, memory_plans):
        sentence((TypeError, ValueError), lambda call=call: call(wrong))


@pytest.mark.parametrize(
    "name", ["models/own", "models/own/", "./models/own", "~/models/own", "own.model", "z-image-turbo", "z-image"]
)
def test_a_path_that_is_there_never_goes_to_the_hub(tmp_path, monkeypatch, name):
    """Relative, with one slash, in the home folder, with the name of a model on the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(TINY, tmp_path / name.removeprefix("~/"), ignore=shutil.ignore_patterns("training"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = TransformersBackend.from_pretrained(name, device="cpu")
        assert memory_plans(name)
    assert backend.embedding_dim == 128
    said = [str(w.message) for w in caught if name in str(w.message)]
    assert bool(said) == (name in short_names()), "a short name that is a folder, too, is reported"


def test_a_path_object_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence(FileNotFoundError, lambda: TransformersBackend.from_pretrained(Path("z-image-turbo")), "z-image-turbo")
    sentence(
        FileNotFoundError,
        lambda: TransformersBackend.from_pretrained(Path("Tongyi-MAI/Z-Image-Turbo")),
        "Tongyi-MAI/Z-Image-Turbo",
    )
    (tmp_path / "tiny").mkdir()
    assert TransformersBackend.from_pretrained("tiny", device="cpu").embedding_dim == 128, (
        "a folder that is no model is not in the way of a short name"
    )


def test_a_file_as_the_model(tmp_path, usual):
    save_file(usual["vae"], tmp_path / "ae.safetensors")
    sentence(ValueError, lambda: ZImagePipeline.from_pretrained(tmp_path / "ae.safetensors"), "ae.safetensors", "vae=")


# Models of other kinds


def change_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_z_image_base_has_its_own_defaults(model):
    change_json(model / "scheduler/scheduler_config.json", shift=6.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = ZImagePipeline.from_pretrained(model, device="cpu")
        recipe = pipe.recipe_for(pipe.encoder.encode("a red circle"))
        assert (recipe.num_inference_steps, recipe.guidance_scale, recipe.shift) == (50, 5.0, 6.0)
        made = pipe("a red circle", num_inference_steps=2, height=32, width=32, progress=False)
    assert (made.recipe.num_inference_steps, made.recipe.guidance_scale) == (2, 5.0), "what is given is taken"
    assert pipe.reproduce(made.recipe, progress=False).image.tobytes() == made.image.tobytes()
    turbo = ZImagePipeline.from_pretrained("tiny", device="cpu")
    recipe = turbo.recipe_for(turbo.encoder.encode("a red circle"))
    assert (recipe.num_inference_steps, recipe.guidance_scale) == (8, 0.0)


def test_a_model_that_is_not_known_is_reported_once(model):
    change_json(model / "scheduler/scheduler_config.json", shift=4.5)
    pipe = ZImagePipeline.from_pretrained(model, device="cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe("a red circle", **QUICK, guidance_scale=0)
        assert not caught
        first, _second = (pipe("a red circle", height=32, width=32, progress=False) for _ in range(2))
    assert [w.filename == __file__ for w in caught if "steps" in str(w.message)] == [
        True
    ] and first.recipe.num_inference_steps == 8


def test_plans_for_z_image_need_no_network():
    base, turbo = (memory_plans(name) for name in ("z-image", "z-image-turbo"))
    assert base[0].weights == turbo[0].weights and resolve_model("z-image") == "Tongyi-MAI/Z-Image"


@pytest.mark.parametrize(
    "changes, names",
    [
        ({"_class_name": "FluxPipeline"}, ["FluxPipeline"]),
        ({"_class_name": "ZImageOmniPipeline"}, ["ZImageOmniPipeline"]),
        ({"siglip": ["transformers", "Siglip2VisionModel"]}, ["siglip"]),
        ({"_class_name": None}, ["model_index.json"]),
        ({"_class_name": 5}, ["5"]),
        ({"controlnet": ["diffusers", "ZImageControlNetModel"]}, ["controlnet"]),
        ({"vae": None}, ["vae"]),
        ({"vae": "AutoencoderKL"}, ["vae"]),
    ],
)
def test_pipelines_of_other_parts(model, changes, names):
    change_json(model / "model_index.json", **changes)
    sentence(ValueError, lambda: ZImagePipeline.from_pretrained(model, device="cpu"), model, *names)
    sentence(ValueError, lambda: memory_plans(model), model, *names)


@pytest.mark.parametrize("kind", ["ZImageImg2ImgPipeline", "ZImageInpaintPipeline"])
def test_pipelines_of_the_same_parts(model, kind):
    change_json(model / "model_index.json", _class_name=kind)
    assert ZImagePipeline.from_pretrained(model, device="cpu")("a cat", **QUICK).image.size == (32, 32)


ODD = [None, "many", -1, [], {}, True]
FIELDS = [
    ("text_encoder", "num_hidden_layers"),
    ("text_encoder", "hidden_size"),
    ("text_encoder", "vocab_size"),
    ("text_encoder", "model_type"),
    ("text_encoder", "intermediate_size"),
    ("transformer", "dim"),
    ("transformer", "n_layers"),
    ("transformer", "axes_lens"),
    ("transformer", "_class_name"),
    ("vae", "block_out_channels"),
    ("vae", "latent_channels"),
    ("vae", "_class_name"),
    ("scheduler", "_class_name"),
]


@pytest.mark.parametrize("part, field", FIELDS)
def test_configurations_with_a_field_missing_or_odd(model, part, field):
    """One sentence that names the part, from whichever door; never a bare name of a field, as `KeyError` says it."""
    file = model / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    whole = file.read_text()
    for value in ["missing", *ODD]:
        config = json.loads(whole)
        config[field] = value
        if value == "missing":
            del config[field]
        file.write_text(json.dumps(config))
        doors = [lambda: ZImagePipeline.from_pretrained(model, device="cpu")]
        if part != "scheduler":
            doors.append(lambda: memory_plans(model))
        if part == "text_encoder":
            doors.append(lambda: ZImageTextEncoder.from_pretrained(model, device="cpu"))
        for door in doors:
            try:
                door()
            except (ValueError, FileNotFoundError) as e:
                said = str(e)
                assert "\n" not in said and len(said) < 700, said
                assert str(model) in said and (part in said or part.replace("_", " ") in said), said
    file.write_text(whole)


def test_a_flux_2_folder(tmp_path, monkeypatch, capsys):
    """What the command line says of it."""
    from llm_dit.cli.commands import main

    for part, config in {
        "text_encoder": {"model_type": "mistral3"},
        "transformer": {"_class_name": "Flux2Transformer2DModel", "num_layers": 8},
        "vae": {"_class_name": "AutoencoderKLFlux2"},
    }.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "Flux2Pipeline", "transformer": ["diffusers", "Flux2Transformer2DModel"]})
    )
    for command in (
        ["info", "--model", str(tmp_path)],
        ["generate", "a cat", "--model", str(tmp_path), "--output", os.devnull + ".png"],
    ):
        monkeypatch.setattr("sys.argv", ["llm-dit", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert (
            ended.value.code == 2
            and said.startswith("llm-dit: ")
            and ("Flux2Pipeline" in said or "generate" in command)
            and len(said) > 40
        ), said


def test_a_load_that_fails_leaves_what_is_global(model, usual):
    from transformers.utils import logging

    write("text_encoder", model, {**usual["text_encoder"], "extra.weight": torch.ones(3)})
    level, dtype = logging.get_verbosity(), torch.get_default_dtype()
    sentence(
        (ValueError, FileNotFoundError), lambda: ZImagePipeline.from_pretrained(model, device="cpu"), "extra.weight"
    )
    assert (logging.get_verbosity(), torch.get_default_dtype()) == (level, dtype)
    assert TransformersBackend.from_pretrained("tiny", device="cpu").embedding_dim == 128


def test_the_playground_begins_with_the_steps_of_the_model(model):
    from llm_dit import Playground

    change_json(model / "scheduler/scheduler_config.json", shift=6.0)
    assert [
        Playground(ZImagePipeline.from_pretrained(m, device="cpu")).painter.steps.value for m in (model, "tiny")
    ] == [50, 8]
