"""What holds for every picture: its recipe makes it again, and a plan that frees memory frees it."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Qwen3Config, Qwen3Model

from llm_dit import Recipe, TemplateRegistry, ZImagePipeline
from llm_dit.encoding.model_files import resolve_model

pytestmark = pytest.mark.side_by_side

WORDS = (
    'a the red blue pale circle star moon on above behind glass 猫 été "quoted" <|im_end|> <think> 🙂 C:\\path {brace} '  # noqa: E501
    "tab\there"
).split(" ")


@pytest.fixture(scope="module")
def pipe():
    return ZImagePipeline.from_pretrained("tiny", device="cpu")


def random_call(source):
    "Arguments of a call, drawn at random."
    prompt = " ".join(source.choices(WORDS, k=source.randint(1, 12)))
    call = dict(
        template=source.choice([None, *TemplateRegistry.shipped()]),
        seed=source.randrange(2**31),
        num_images=source.choice([1, 1, 1, 2]),
        height=16 * source.randint(2, 10),
        width=16 * source.randint(2, 10),
        num_inference_steps=source.randint(1, 4),
        guidance_scale=source.choice([0.0, 0.0, 0.5, 2.0]),
        negative_prompt=source.choice(["", "green"]),
        hidden_layer=source.choice([-2, -2, -3, 1]),
        special_tokens=source.choice(["escape", "allow"]),
    )
    if source.random() < 0.5:
        call["thinking"] = source.choice(["", "two stars,\nfar apart"])
    if source.random() < 0.2:
        call.update(
            image=Image.effect_noise((call["width"], call["height"]), 80).convert("RGB"),
            strength=source.choice([0.4, 1.0]),
            num_inference_steps=4,
        )
    return prompt, call


@pytest.mark.filterwarnings("ignore")
def test_a_hundred_random_recipes(pipe, tmp_path):
    source, made = random.Random(0), 0
    while made < 100:
        prompt, call = random_call(source)
        pictures = pipe(prompt, progress=False, **call)
        for png, picture, recipe in zip(pictures.save(tmp_path / "picture.png"), pictures.images, pictures.recipes):
            assert Recipe.from_png(png) == recipe
            again = pipe.reproduce(png, image=call.get("image"), progress=False)
            assert again.image.tobytes() == picture.tobytes() == Image.open(png).tobytes(), (prompt, call)
            assert again.recipe == recipe
            made += 1


def test_a_picture_saved_by_another_program(pipe, tmp_path):
    [png] = pipe("a red circle", num_inference_steps=1, progress=False).save(tmp_path / "picture.png")
    Image.open(png).convert("RGB").copy().save(tmp_path / "stripped.png")
    with pytest.raises(ValueError, match=r"stripped.png carries no recipe"):
        pipe.reproduce(tmp_path / "stripped.png")
    data = png.read_bytes()
    (tmp_path / "cut.png").write_bytes(data.replace(b'"seed": 0', b'"seed" 0 '))
    with pytest.raises(ValueError, match=r"cut.png is not an image that can be read; expected one saved by llm-dit"):
        pipe.reproduce(tmp_path / "cut.png")


@pytest.fixture(scope="module")
def large_encoder(tmp_path_factory):
    "The embedded checkpoint with a text encoder of 420 MB in float32, random."
    folder = tmp_path_factory.mktemp("model")
    tiny = Path(resolve_model("tiny"))
    for name in ("model_index.json", "scheduler", "tokenizer", "transformer", "vae"):
        (shutil.copytree if (tiny / name).is_dir() else shutil.copy)(tiny / name, folder / name)
    config = Qwen3Config.from_pretrained(tiny, subfolder="text_encoder")
    config.intermediate_size = 65536
    torch.manual_seed(0)
    Qwen3Model(config).to(torch.bfloat16).save_pretrained(folder / "text_encoder")
    return folder


MEASURE = """
import json, re, sys
from llm_dit import ZImagePipeline
def resident(): return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
seen = {}
def look(pipe, step, timestep, tensors): seen["denoising"] = resident()
pipe = ZImagePipeline.from_pretrained(sys.argv[1], device="cpu", dtype="float32", memory=sys.argv[2])
pipe.encoder.encode("a red circle")
seen["encoded"] = resident()
made = pipe("a red circle", num_inference_steps=2, progress=False, callback_on_step_end=look)
seen["weights"] = pipe.plan.weights["text_encoder"] / 2**20
seen["pixels"] = made.image.tobytes().hex()[:64]
print(json.dumps(seen))
"""


def test_the_encoder_is_gone_while_denoising(large_encoder):
    def measured(memory):
        return json.loads(
            subprocess.run(
                [sys.executable, "-c", MEASURE, str(large_encoder), memory], capture_output=True, text=True, check=True
            ).stdout
        )

    plans = {memory: measured(memory) for memory in ("fast", "balanced", "low")}
    print(
        {
            memory: {name: round(value) for name, value in seen.items() if name != "pixels"}
            for memory, seen in plans.items()
        },
        "MB",
    )
    weights = plans["fast"]["weights"]
    for memory in ("balanced", "low"):
        assert plans[memory]["encoded"] - plans[memory]["denoising"] > 0.9 * weights, (
            "the encoder's memory is given back"
        )
        assert plans["fast"]["denoising"] - plans[memory]["denoising"] > 0.9 * weights
    assert len({seen["pixels"] for seen in plans.values()}) == 1, "and the picture is the same"
