"""The recipe's small promises, one by one; `tools/mutation.py` says which of them the notebook leaves open."""

import io
import json
import platform
import re
from dataclasses import FrozenInstanceError, replace
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import llm_dit
from llm_dit.core.values import is_local_path, short_name
from llm_dit.encoding.output import EncodingOutput
from llm_dit.generation.environment import installed_versions, rounding_switches
from llm_dit.generation.hashes import hash_ids, hash_image, hash_tensor
from llm_dit.generation.recipe import FORMAT, Recipe
from llm_dit.generation.result import Generation
from llm_dit.prompts.formatter import FormattedPrompt, format_prompt

pytestmark = pytest.mark.side_by_side
PROMPT = format_prompt("a cat", system="Low light.", thinking="Where?")
LORA = {"name": "style", "file": "style.safetensors", "weight": 0.8, "type": "lora", "hash": "0123456789abcdef"}
PARTS = {"text_encoder": "a" * 16, "transformer": "b" * 16, "vae": "c" * 16}


def recipe(**changes):
    """A recipe in which everything is usual but `changes`."""
    usual = {"text": "a cat", "input_ids_hash": "0" * 16, "seed": 1, "height": 64, "width": 96, "model": "tiny"}
    return Recipe(**usual | changes)


def labelled(**changes):
    """A recipe whose text has labels."""
    spans = tuple((span.label, span.start, span.end) for span in PROMPT.spans)
    return recipe(text=PROMPT.text, spans=spans, **changes)


def refusal(f, *args):
    """The sentence of the `ValueError` with which a call is refused."""
    with pytest.raises(ValueError) as raised:
        f(*args)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- names and fingerprints


def test_versions_are_those_that_are_installed():
    found = installed_versions("peft", "no-such-package")
    assert found == {"python": platform.python_version(), "llm-dit": llm_dit.__version__} | {
        name: version(name) for name in ("torch", "transformers", "diffusers", "peft")
    }


LOCAL = ["/a", "~/a", "./a", "../a", "a/", "a/b/c", r"C:\a", ".a"]


@pytest.mark.parametrize(
    "source, local",
    [*((source, True) for source in LOCAL), ("tiny", False), ("org/name", False), ("a.safetensors", False)],
)
def test_what_can_only_be_a_path(source, local):
    assert is_local_path(source) is local


def test_a_path_is_reduced_to_its_last_part(tmp_path, monkeypatch):
    assert [short_name(name) for name in ("tiny", "org/name")] == ["tiny", "org/name"]
    paths = ("/x/name", "/x/name/", r"C:\x\name", Path("x/name"), Path("name"))
    assert {short_name(path) for path in paths} == {"name"}
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert short_name("org/name") == "name", "a folder of that name is here"
    monkeypatch.setenv("HOME", "/home/ann")
    assert short_name("~") == "ann"


def test_fingerprints_are_those_of_earlier_versions():
    """They stand in recipes that were written; another value would make every one of them look damaged."""
    assert hash_ids(torch.tensor([1, 2, 3])) == "a36b1f2c3f84522d"
    image = Image.new("RGB", (2, 1), "red")
    assert hash_image(image) == "674423c5701cf69c" != hash_image(image.convert("RGBA"))


def test_a_fingerprint_of_a_tensor_covers_shape_dtype_and_values():
    tensors = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.tensor([0.0, 0, 0, 1])]
    assert len({hash_tensor(x) for x in tensors}) == 4 and all(len(hash_tensor(x)) == 16 for x in tensors)
    grid = torch.arange(6.0).reshape(2, 3)
    assert hash_tensor(grid.T) == hash_tensor(grid.T.contiguous()) != hash_tensor(grid)
    assert hash_tensor(grid.bfloat16()) != hash_tensor(grid) == hash_tensor(grid.clone().requires_grad_())


def test_switches_that_are_not_at_their_defaults():
    assert rounding_switches() == {}
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        assert rounding_switches() == {"float32_matmul_precision": "high", "cudnn.benchmark": True}
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        assert rounding_switches() == {"deterministic_algorithms": True, "cudnn.deterministic": True}
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def test_autocast_is_a_switch():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rounding_switches() == {"autocast of cpu": "bfloat16"}
    assert rounding_switches() == {}


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="this torch has the older switches only")
def test_newer_switches_are_named_one_by_one(monkeypatch):
    def refuse():
        raise RuntimeError("the newer switches were used")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    said = rounding_switches()["float32_matmul_precision"].split(", ")
    assert [one.split()[0] for one in said] == ["cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv"]
    assert said[2].split()[1] == torch.backends.mkldnn.matmul.fp32_precision


# ---- what a recipe may hold

WRONG = [
    {"seed": "1"},
    {"seed": 1.0},
    {"seed": True},
    {"height": True},
    {"height": 0},
    {"width": 0},
    {"num_inference_steps": 0},
    {"batch_size": 0},
    {"seed": 2**64},
    {"seed": -(2**63) - 1},
    {"strength": 0.0},
    {"strength": 1.1},
    {"strength": "1"},
    {"guidance_scale": float("nan")},
    {"guidance_scale": float("inf")},
    {"guidance_scale": True},
    {"shift": "3"},
    {"vae_tiling": 1},
    {"compile": None},
    {"negative_prompt": ["a"]},
    {"template": 3},
    {"versions": ["torch"]},
    {"forged": (1,)},
    {"history": (1,)},
    {"versions": {"torch": 2}},
    {"special_tokens": "no"},
    {"weights": {"vae": "x"}},
    {"weights": {"vae": "a" * 17}},
    {"weights": {"vae": 3}},
    {"scheduler": {"shift": 3}},
    {"scheduler": {"class": 3}},
    {"sigmas": ("1",)},
    {"sigmas": (float("nan"),)},
    {"sigmas": (True,)},
    {"loras": (LORA | {"weight": "1"},)},
    {"loras": (LORA | {"weight": True},)},
    {"loras": (LORA | {"weight": float("inf")},)},
    {"loras": (LORA | {"name": None},)},
    {"loras": (LORA | {"file": 3},)},
    {"loras": (LORA | {"hash": 3},)},
    {"loras": (LORA | {"type": 3},)},
    {"text": "\ud83d"},
    {"format": FORMAT + 1},
    {"scheduler": {"class": "Euler", "shift": float("nan")}},
    {"loras": ((3, 1),)},
    {"max_length": 0},
    {"cfg_truncation": "1"},
    {"spans": (("user", 0),)},
    {"spans": (("me", 0, 5),)},
    {"spans": (("user", 0, 4),)},
    {"spans": (("user", 1, 5),)},
    {"spans": (("user", 0.0, 5),)},
    {"spans": (("user", 0, 5.0),)},
    {"spans": (("user", False, 5),)},
    {"spans": (("user", 0, 7), ("user", 7, 5))},
    {"spans": (("user", 0, 2), ("user", 3, 5))},
    {"spans": (("user", 0, 6),)},
]
NOT_IN_JSON = [{"versions": {2: "torch"}}, {"weights": {3: "a" * 16}}, {"format": FORMAT - 1}]


@pytest.mark.parametrize("changes", [*WRONG, *NOT_IN_JSON], ids=repr)
def test_what_no_image_can_have(changes):
    """The writer and the reader refuse the same."""
    odd = recipe(**changes)
    assert refusal(odd.validate).startswith("No image can have this recipe: ") and refusal(odd.to_json)
    if changes not in NOT_IN_JSON:
        said = json.dumps(json.loads(recipe().to_json()) | changes)
        assert refusal(Recipe.from_json, said).startswith("This ")


RIGHT = [
    {"seed": 2**64 - 1},
    {"seed": -(2**63)},
    {"strength": 1.0},
    {"strength": 0.01},
    {"height": 1, "width": 1},
    {"num_inference_steps": 1},
    {"batch_size": 1},
    {"guidance_scale": 5},
    {"shift": 3},
    {"strength": 1},
    {"cfg_normalization": True},
    {"cfg_normalization": 1.5},
    {"weights": PARTS},
    {"sigmas": [1.0, 0.5, 0]},
    {"scheduler": {"class": "Euler", "shift": 3.0, "levels": [1, None]}},
    {"loras": [LORA, LORA | {"weight": 1}]},
    {"loras": [LORA | {"type": None, "hash": None}]},
    {"special_tokens": "allow", "forged": ["<think>"]},
    {"rounding": {"cudnn.benchmark": True}},
    {"max_length": 1},
    {"spans": [["user", 0, 2], ["user", 2, 5]]},
]


@pytest.mark.parametrize("changes", RIGHT, ids=repr)
def test_what_is_written_is_read(changes):
    made = recipe(**changes)
    assert made.validate() is made
    again = Recipe.from_json(made.to_json())
    assert again == made and hash(again.seed) == hash(made.seed)
    assert all(isinstance(getattr(again, name), tuple) for name in ("spans", "loras", "forged", "history", "sigmas"))


def test_a_number_that_is_none_is_named():
    assert refusal(recipe(guidance_scale=float("nan")).validate).endswith("guidance_scale is nan.")


def test_what_is_written_names_its_format_and_keeps_letters():
    said = recipe(text="雨").to_json()
    assert json.loads(said)["format"] == 2 and "雨" in said


def test_a_recipe_does_not_change():
    with pytest.raises(FrozenInstanceError):
        recipe().seed = 2


def test_the_usual_values():
    """They are what a call without options does, and what a recipe of an earlier version means by silence."""
    plain = recipe()
    assert (plain.num_inference_steps, plain.shift, plain.guidance_scale, plain.hidden_layer) == (8, 3.0, 0.0, -2)
    assert (plain.batch_size, plain.cfg_normalization, plain.cfg_truncation, plain.max_length) == (1, False, 1.0, 512)
    assert not (plain.vae_tiling or plain.compile or plain.from_embeddings or plain.edited)


def test_no_path_is_kept(tmp_path):
    made = recipe(model="/home/ann/mine", text_encoder="~/encoder", loras=[("/home/ann/my.style.safetensors", 0.5)])
    assert (made.model, made.text_encoder) == ("mine", "encoder")
    unknown = {"type": None, "hash": None}
    assert made.loras == ({"name": "my_style", "file": "my.style.safetensors", "weight": 0.5, **unknown},)
    assert recipe(loras=[LORA | {"file": "/home/ann/x.safetensors"}]).loras[0]["file"] == "x.safetensors"
    assert recipe(model="org/name", loras=[("org/name", 1)]).loras[0]["file"] == "org/name"
    assert "ann" not in made.to_json() + made.to_code() + made.parameters()


# ---- reading


def test_what_is_not_a_recipe():
    for text in ("", "[]", "3", '{"text": "x"}', "[" * 100_000, recipe().to_json()[:-1], '{"format": null}'):
        assert refusal(Recipe.from_json, text).startswith("This is not a recipe of llm-dit, or a damaged one (")
    assert "(expected a JSON object)" in refusal(Recipe.from_json, "[]")
    said = json.loads(recipe().to_json())
    assert "has no field 'colour'" in refusal(Recipe.from_json, json.dumps(said | {"colour": "red", "zebra": 1}))
    long = refusal(Recipe.from_json, json.dumps(said | {"c" * 500: 1}))
    assert len(re.search(r"one \((.*)\); expected", long)[1]) == 200
    assert "(loras is a str)" in refusal(Recipe.from_json, json.dumps(said | {"loras": "style", "history": 5}))
    newer = refusal(Recipe.from_json, json.dumps(said | {"format": FORMAT + 1, "colour": 1}))
    assert f"format {FORMAT + 1}, and llm-dit" in newer and "update llm-dit" in newer


@pytest.mark.parametrize(
    "given, history, edited",
    [
        (True, ["scale(2)"], True),
        (True, [], False),
        (False, ["scale(2)"], False),
    ],
)
def test_recipes_of_format_1(given, history, edited):
    said = json.loads(recipe().to_json())
    for name in (
        "format",
        "edited",
        "weights",
        "scheduler",
        "embedding_hash",
        "latents_hash",
        "sigmas",
        "rounding",
        "cfg_normalization",
        "cfg_truncation",
        "vae_dtype",
        "max_length",
        "on_overflow",
        "formatter",
    ):
        said.pop(name, None)
    said |= {"loras": [["a/b/style.safetensors", 1]], "from_embeddings": given, "history": history}
    read = Recipe.from_json(json.dumps(said))
    assert (read.format, read.edited, read.weights, read.scheduler) == (FORMAT, edited, {}, {})
    assert read.loras[0]["file"] == "style.safetensors" and read.loras[0]["name"] == "style"


def test_images_without_a_recipe(tmp_path, monkeypatch):
    image = Image.new("RGB", (2, 2))
    image.save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("not an image")
    assert refusal(Recipe.from_image, tmp_path / "plain.png").startswith(f"{tmp_path / 'plain.png'} carries no recipe")
    opened = Image.open(tmp_path / "plain.png")
    assert refusal(Recipe.from_image, opened).startswith(f"{tmp_path / 'plain.png'} carries")
    assert refusal(Recipe.from_image, image).startswith("This image carries no recipe")
    assert "is not an image that can be read" in refusal(Recipe.from_image, tmp_path / "text.png")
    with pytest.raises(FileNotFoundError):
        Recipe.from_image(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        Recipe.from_image(tmp_path)
    monkeypatch.setattr(Image, "open", Mock(side_effect=PermissionError))
    with pytest.raises(PermissionError):
        Recipe.from_image(tmp_path / "plain.png")


def test_a_damaged_recipe_names_its_file(tmp_path):
    made = generation(recipe(seed=3))
    [path] = made.save(tmp_path / "a.png")
    info = PngInfo()
    info.add_itxt("llm_dit_recipe", "{}")
    made.image.save(path, pnginfo=info)
    assert refusal(Recipe.from_png, path).startswith(f"{path}: This is not a recipe")


# ---- text, comparison, program


def test_the_text_and_who_wrote_it():
    assert recipe().formatted() == "a cat" and recipe().spoken() == "a cat" and recipe().spoken("system") == ""
    made = labelled(special_tokens="allow", forged=("<think>",))
    assert made.formatted() == FormattedPrompt(PROMPT.text, PROMPT.spans, ("<think>",), "allow")
    assert (made.spoken(), made.spoken("system"), made.spoken("thinking")) == ("a cat", "Low light.", "Where?")
    assert made.spoken("assistant") == ""


def test_differences_are_named_one_by_one():
    first = recipe(
        weights=PARTS,
        versions={"torch": "2.1", "peft": "1"},
        scheduler={"class": "Euler", "shift": 3.0},
        loras=[LORA],
        rounding={"cudnn.benchmark": True},
    )
    second = recipe(
        seed=2,
        weights=PARTS | {"vae": "d" * 16},
        versions={"torch": "2.2"},
        scheduler={"class": "Heun", "shift": 3.0},
        loras=[LORA | {"weight": 1, "hash": "e" * 16}],
    )
    assert first.diff(second) == {
        "seed": (1, 2),
        "torch version": ("2.1", "2.2"),
        "peft version": ("1", None),
        "vae weights": ("c" * 16, "d" * 16),
        "scheduler class": ("Euler", "Heun"),
        "LoRA style": (0.8, 1),
        "torch's cudnn.benchmark": (True, None),
        "LoRA style hash": ("0123456789abcdef", "e" * 16),
    }
    assert first.diff(first) == {}


def test_what_a_recipe_does_not_know_is_not_a_difference():
    old, new = recipe(versions={}), recipe(versions={"torch": "2.2"}, weights=PARTS, scheduler={"class": "Euler"})
    assert old.unlike(new) == {} and new.unlike(old)["vae weights"] == ("c" * 16, None)
    switched = replace(new, rounding={"cudnn.benchmark": True})
    assert old.unlike(switched) == {} and new.unlike(switched) == {"torch's cudnn.benchmark": (None, True)}
    more = replace(new, template="noir", loras=[LORA])
    assert old.unlike(more) == {"template": (None, "noir"), "LoRA style": (None, 0.8)}


def test_other_names_of_the_same_weights_are_not_a_difference():
    first = recipe(weights=PARTS, model="org/name", revision="main", text_encoder="mine")
    assert first.unlike(replace(first, model="name", revision=None, text_encoder=None)) == {}
    other = replace(first, model="name", weights={**PARTS, "vae": "d" * 16})
    assert first.unlike(other).keys() == {"model", "vae weights"}
    partly = replace(first, weights={"vae": "c" * 16})
    assert partly.unlike(replace(partly, model="name")) == {"model": ("org/name", "name")}


def test_options_to_load_with():
    assert recipe().loading_options() == {"device": "cpu", "dtype": "float32"}
    made = recipe(quantization="int8", compile=True, device="cuda", hidden_layer=-1, template="noir")
    assert made.loading_options() == {
        "device": "cuda",
        "dtype": "float32",
        "quantization": "int8",
        "compile": True,
        "hidden_layer": -1,
    }
    assert "quantization" not in recipe(quantization="gguf-Q4_0").loading_options()


class Recorder:
    """Stands for the pipeline that a program loads, and notes what is asked of it."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **options: self.calls.append((name, args, options)) or self

    image = "the image"


@pytest.mark.parametrize(
    "changes, needed",
    [
        ({}, set()),
        ({"image_hash": "0" * 16, "strength": 0.5}, {"image"}),
        ({"edited": True, "from_embeddings": True}, {"encoding"}),
        ({"latents_hash": "0" * 16}, {"latents"}),
        ({"image_hash": "0" * 16, "latents_hash": "1" * 16}, {"image", "latents"}),
    ],
)
def test_the_program_makes_the_same_recipe(monkeypatch, changes, needed):
    pipe = Recorder()
    monkeypatch.setattr("llm_dit.ImagePipeline", pipe, raising=False)
    monkeypatch.setattr("llm_dit.EncodingOutput", Recorder(), raising=False)
    monkeypatch.setattr(Image, "open", lambda path: "image")
    monkeypatch.setattr(torch, "load", lambda path: "tensor")
    made = labelled(loras=[LORA], weights=PARTS, dtype="bfloat16", revision="v1", **changes)
    exec(compile(made.to_code(), "recipe", "exec"), {})
    [load, lora, reproduce] = pipe.calls
    assert load == ("from_pretrained", ("tiny",), {"device": "cpu", "dtype": "bfloat16", "revision": "v1"})
    assert lora == ("load_lora", ("style.safetensors", 0.8), {"name": "style"})
    assert reproduce[1] == (made,) and set(reproduce[2]) == needed
    assert not {"num_inference_steps=", "scheduler=", "rounding="} & set(re.findall(r"\w+=", made.to_code())), "usual"


# ---- what viewers show


def test_the_lines_that_viewers_read():
    made = labelled(
        negative_prompt="a dog",
        guidance_scale=4.0,
        weights=PARTS,
        strength=0.5,
        template="noir",
        loras=[LORA],
        edited=True,
        from_embeddings=True,
        history=("scale(2)",),
        versions={"llm-dit": "9.9"},
    )
    lines = made.parameters().splitlines()
    assert lines[:2] == ["a cat", "Negative prompt: a dog"] and len(lines) == 3
    for said in (
        "Steps: 8, ",
        "Sampler: Euler, ",
        "Schedule type: Simple, ",
        "CFG scale: 5, ",
        "Seed: 1, ",
        "Size: 96x64, ",
        "Model hash: bbbbbbbbbb, ",
        "Model: tiny, ",
        "Denoising strength: 0.5, ",
        "0123456789ab",
        "style: 0.8",
        "Shift: 3, ",
        "Template: noir, ",
        "System prompt: Low light., ",
        "Thinking: Where?, ",
        "scale(2)",
        "Version: llm-dit 9.9",
    ):
        assert said in lines[2], said
    assert "0123456789abc" not in lines[2]


def test_what_is_not_there_is_not_shown():
    text = recipe(versions={}).parameters()
    absent = ("Negative prompt", "Model hash", "Denoising", "Lora", "Template", "System prompt", "Thinking", "None")
    assert not [name for name in (*absent, "Edited") if name in text]
    assert text.endswith("Version: llm-dit")
    assert "Edited embedding: yes" in recipe(edited=True, from_embeddings=True).parameters()
    assert "Edited" not in recipe(from_embeddings=True, history=("x",)).parameters()


@pytest.mark.parametrize(
    "scheduler, shown",
    [
        ({"class": "FlowMatchHeunDiscreteScheduler"}, "Sampler: Heun, Schedule type: Simple, "),
        ({"class": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True}, "Euler, Schedule type: Karras, "),
        ({"class": "UniPCMultistepScheduler", "use_beta_sigmas": True}, "Sampler: UniPC, Schedule type: Beta, "),
    ],
)
def test_sampler_and_schedule(scheduler, shown):
    assert shown in recipe(scheduler=scheduler).parameters()


# ---- what a call returns


def generation(*recipes):
    """Images of some recipes."""
    encoding = EncodingOutput([torch.zeros(3, 4)], [torch.arange(3)], [["a", "b", "c"]], ["abc"], [()], -2, [False])
    images = [Image.new("RGB", (8 + 4 * n, 8 + 2 * n), (50 * n + 50, 0, 0)) for n in range(len(recipes))]
    return Generation(images, list(recipes), encoding, {"encode": 0.126, "denoise": 2.0})


def test_one_image_or_several():
    one, two = generation(recipe()), generation(recipe(), recipe(seed=2))
    assert one.image is one.images[0] and one.recipe is one.recipes[0]
    for name in ("image", "recipe"):
        assert refusal(getattr, two, name) == "There are 2 images here; choose one, as in images[0] or recipes[0]."
    with pytest.raises(FrozenInstanceError):
        one.images = []
    assert "(2 × 96×64, " in repr(generation(recipe(), recipe(width=32)))
    assert repr(two) == "Generation(2 × 96×64, seeds [1, 2]; encode 0.13 s, denoise 2.00 s)"


def test_all_images_side_by_side():
    made = generation(recipe(), recipe(seed=2), recipe(seed=3))
    sheet = Image.open(io.BytesIO(made._repr_png_()))
    assert sheet.size == (8 + 12 + 16, 12)
    assert [sheet.getpixel((x, 0))[0] for x in (0, 7, 8, 19, 20, 35)] == [50, 50, 100, 100, 150, 150]
    assert [sheet.getpixel((x, 11))[0] for x in (0, 8, 20)] == [0, 0, 150]


def test_files_carry_their_own_recipes(tmp_path):
    one, two = generation(recipe()), generation(recipe(), recipe(seed=2))
    assert one.save(tmp_path / "one.png") == [tmp_path / "one.png"]
    paths = two.save(str(tmp_path / "two.png"))
    assert paths == [tmp_path / "two_0.png", tmp_path / "two_1.png"]
    assert [Recipe.from_image(path) for path in paths] == two.recipes
    assert [Image.open(path).info["parameters"] for path in paths] == [each.parameters() for each in two.recipes]
    with pytest.raises(ValueError):
        Generation(two.images, one.recipes, two.encoding, {}).to_bytes()


def test_nothing_is_written_if_one_recipe_is_wrong(tmp_path):
    assert "seed" in refusal(generation(recipe(), recipe(seed=2**64)).save, tmp_path / "a.png")
    assert not [*tmp_path.iterdir()]
    assert [data[:4] for data in generation(recipe()).to_bytes()] == [b"\x89PNG"]
    assert [data[:3] for data in generation(recipe()).to_bytes(".jpg")] == [b"\xff\xd8\xff"]
    assert "are a ndarray" in refusal(replace(generation(recipe()), images=np.zeros((1, 8, 8, 3))).to_bytes)
