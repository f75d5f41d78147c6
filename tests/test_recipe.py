"""A recipe names every input that decides the pixels, is checked when written, leaks no path, and travels in its
image.
"""

import json
import re
import shutil
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors.torch import save_file

from llm_dit import EncodingOutput, Generation, Recipe, RecipeWarning, Sweep, ZImagePipeline, ZImageTextEncoder
from llm_dit.encoding.fingerprints import PartFingerprint
from llm_dit.encoding.model_files import resolve_model
from llm_dit.studies.plan import error_sentence

pytestmark = pytest.mark.side_by_side
PROMPT = "a red circle on a blue background"
QUICK = {"num_inference_steps": 2, "height": 64, "width": 64, "progress": False}
FORMAT_1 = json.loads(Path(__file__).with_name("recipes_format_1.json").read_text())


@pytest.fixture(scope="module")
def pipe():
    return ZImagePipeline.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def made(pipe):
    return pipe(PROMPT, **QUICK)


def differs(pipe, recipe, **given):
    """What `reproduce` warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe.reproduce(recipe, progress=False, **given)
    return " ".join(str(each.message) for each in caught if each.category is RecipeWarning)


# ---- F3: weights and scheduler


@pytest.mark.parametrize(
    "options",
    [{"memory": "low"}, {"memory": "balanced"}, {"dtype": "bfloat16"}, {"pack_weights": False}, {"hidden_layer": -1}],
)
def test_one_checkpoint_has_one_fingerprint(pipe, options):
    other = ZImagePipeline.from_pretrained("tiny", device="cpu", **options)
    other(PROMPT, **QUICK)
    assert other.weights == pipe.weights and set(pipe.weights) == {"text_encoder", "transformer", "vae"}


def test_another_vae(pipe, made):
    vae = AutoencoderKL.from_pretrained(resolve_model("tiny"), subfolder="vae")
    other = ZImagePipeline.from_pretrained("tiny", device="cpu", vae=vae)
    assert other.weights == pipe.weights and not differs(other, made.recipe)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(1.01)
    assert "vae weights" in differs(other, made.recipe)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_weights_changed_in_memory(made, part):
    other = ZImagePipeline.from_pretrained("tiny", device="cpu")
    weight = next(getattr(other.pipe, part).parameters())
    weight.data.mul_(1.1)
    assert f"{part} weights" in differs(other, made.recipe)


def test_a_changed_text_encoder(made):
    other = ZImagePipeline.from_pretrained("tiny", device="cpu", pack_weights=False)
    with torch.no_grad():
        other.encoder.backend.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    assert "text_encoder weights" in differs(other, made.recipe)


def test_a_number_of_the_configuration(made):
    other = ZImagePipeline.from_pretrained("tiny", device="cpu")
    other.pipe.vae.register_to_config(scaling_factor=other.pipe.vae.config.scaling_factor * 2)
    assert "vae weights" in differs(other, made.recipe)


def test_a_fine_tune_under_the_same_name(made, tmp_path):
    folder = shutil.copytree(resolve_model("tiny"), tmp_path / "tiny")
    assert not differs(ZImagePipeline.from_pretrained(folder, device="cpu"), made.recipe)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        vae.decoder.conv_out.bias.add_(0.5)
    (
        folder / "vae" / "diffusion_pytorch_model.safetensors"
    ).unlink()  # beside shards it would not be known which are meant
    vae.save_pretrained(folder / "vae", max_shard_size="1MB")
    assert "vae weights" in differs(ZImagePipeline.from_pretrained(folder, device="cpu"), made.recipe)


@pytest.mark.parametrize("change", [{"shift": 5.0}, {"use_karras_sigmas": True}, {"stochastic_sampling": True}])
def test_another_scheduler(made, change):
    other = ZImagePipeline.from_pretrained("tiny", device="cpu")
    other.pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(other.pipe.scheduler.config, **change)
    told = differs(other, made.recipe)
    assert all(f"scheduler {name}" in told for name in change)


def louder(module, inputs, output):
    return output * 1.5


class Opposite:
    """An attention processor that nobody knows."""

    def __init__(self, own):
        self.own, self._attention_backend, self._parallel_config = own, None, None

    def __call__(self, *args, freqs_cis=None, **options):
        return -self.own(*args, freqs_cis=freqs_cis, **options)


@contextmanager
def hooked(module):
    hook = module.register_forward_hook(louder)
    yield
    hook.remove()


@contextmanager
def another_processor(attention):
    own = attention.processor
    attention.processor = Opposite(own)
    yield
    attention.processor = own


@contextmanager
def other_tiles(vae):
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = 4, 32
    yield
    vae.disable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = 16, 128


PUT_ON = {
    "hooks on the transformer 'louder'": lambda pipe: hooked(pipe.transformer.layers[0]),
    "hooks on the vae 'louder'": lambda pipe: hooked(pipe.vae.decoder),
    "hooks on the text_encoder 'louder'": lambda pipe: hooked(pipe.text_encoder.layers[0].mlp),
    "hooks on the transformer 'Opposite'": lambda pipe: another_processor(pipe.transformer.layers[0].attention),
    "tiles of the vae '32, 4, 0.25'": lambda pipe: other_tiles(pipe.vae),
    "autocast of cpu 'bfloat16'": lambda pipe: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("told", PUT_ON)
def test_what_no_weight_shows(made, told):
    """Put on for one image, it is named, and it is gone from the next; embeddings that were kept do not hide it."""
    own = ZImagePipeline.from_pretrained("tiny", device="cpu")
    own(PROMPT, **QUICK)
    with PUT_ON[told](own):
        assert told in differs(own, made.recipe)
        other = own(PROMPT, **QUICK)
    assert np.any(np.asarray(other.image) != np.asarray(made.image))
    assert Recipe.from_json(other.recipe.to_json()) == other.recipe
    assert own(PROMPT, **QUICK).image.tobytes() == made.image.tobytes() and not differs(own, made.recipe)


def test_an_embedding_is_made_in_the_dtype_that_is_shown():
    """torch.autocast does not reach the text encoder, so that nothing of it is kept for later images."""
    encoder = ZImageTextEncoder.from_pretrained("tiny", device="cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = encoder.encode("a red circle").embedding
    assert inside.equal(ZImageTextEncoder.from_pretrained("tiny", device="cpu").encode("a red circle").embedding)


AFTER_A_FORK = """
import os, threading, time
from llm_dit import ZImagePipeline
from llm_dit.encoding.fingerprints import file_sum
from llm_dit.encoding import fingerprints
usual, late = file_sum, threading.Event()
fingerprints.file_sum = lambda file: (late.wait(60), usual(file))[1]
pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
if not (child := os.fork()):
    late.set()
    os._exit(pipe.weights != {weights})
assert os.waitpid(child, 0)[1] == 0, "the child reads the files"
late.set()
assert pipe.weights == {weights}
"""


def test_a_fork_while_files_are_read(pipe):
    """The thread that reads them is not in the child."""
    code = AFTER_A_FORK.replace("{weights}", repr(pipe.weights))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


SHORTENED = """
import os, sys
from llm_dit.encoding import fingerprints
usual = fingerprints.tensor_digest
def shorten(name, x): # as another program may, while the thread reads
    os.truncate(sys.argv[1], 100_000)
    return usual(name, x)
fingerprints.tensor_digest = shorten
try: fingerprints.file_sum(sys.argv[1])
except ValueError: print("told")
"""


def test_a_file_that_is_shortened_while_it_is_read(tmp_path):
    """A bus error would end the process, and the kernel of a notebook."""
    name = "diffusion_pytorch_model.safetensors"
    file = shutil.copy(f"{resolve_model('tiny')}/transformer/{name}", tmp_path)
    done = subprocess.run([sys.executable, "-c", SHORTENED, file], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr


def test_packed_weights_are_read_from_memory(pipe):
    packed = pipe.encoder.backend.model
    plain = ZImageTextEncoder.from_pretrained("tiny", device="cpu", pack_weights=False).backend.model
    assert any(x.is_mkldnn for x in packed.buffers()), "this machine packs weights"
    assert PartFingerprint().watch(lambda: packed).value() == PartFingerprint().watch(lambda: plain).value()


NEWER_SWITCHES = """
import torch
from llm_dit.generation.environment import rounding_switches
assert rounding_switches() == {}
torch.backends.mkldnn.matmul.fp32_precision = "bf16"
assert "mkldnn.matmul bf16" in rounding_switches()["float32_matmul_precision"]
"""


def test_newer_switches_of_torch():
    """torch refuses to answer in one word then."""
    if not hasattr(torch.backends.mkldnn, "matmul"):
        pytest.skip("this torch has the older switches only")
    subprocess.run([sys.executable, "-c", NEWER_SWITCHES], check=True)


def test_the_first_image_is_not_delayed(monkeypatch):
    """What is left to wait for after an image, measured against all that came before it.

    Generous, since other tests run beside.
    """
    start = time.perf_counter()
    other = ZImagePipeline.from_pretrained("tiny", device="cpu")
    waited = []
    fingerprints = ZImagePipeline.weights.fget

    def measured(self):
        begin = time.perf_counter()
        found = fingerprints(self)
        waited.append(time.perf_counter() - begin)
        return found

    monkeypatch.setattr(ZImagePipeline, "weights", property(measured))
    other(PROMPT, progress=False)
    assert len(waited) == 1 and waited[0] < 0.1 * (time.perf_counter() - start)


def test_a_lora_on_top_is_not_part_of_the_weights(pipe, made, tmp_path):
    layer = pipe.pipe.transformer.layers[0].attention.to_q
    down, up = torch.randn(4, layer.in_features) * 0.1, torch.randn(layer.out_features, 4)
    save_file(
        {f"transformer.layers.0.attention.to_q.lora_{side}.weight": x for side, x in (("A", down), ("B", up))},
        tmp_path / "style.safetensors",
    )
    before = pipe.weights
    with pipe.load_lora(tmp_path / "style.safetensors", 0.5):
        styled = pipe(PROMPT, **QUICK)
        assert pipe.weights == before == styled.recipe.weights and "LoRA style" in differs(pipe, made.recipe)
        assert not differs(pipe, styled.recipe) and str(tmp_path) not in styled.recipe.to_json()
    assert "LoRA style" in differs(pipe, styled.recipe) and not differs(pipe, made.recipe)


# ---- F6: the reader's rules when written


@pytest.mark.parametrize(
    "change",
    [
        {"negative_prompt": ["circle"]},
        {"seed": 1.5},
        {"guidance_scale": float("nan")},
        {"loras": (("x", "0.8"),)},
        {"scheduler": {"shift": object()}},
    ],
)
def test_nothing_is_written_that_cannot_be_read(made, tmp_path, change):
    odd = Generation(made.images, [replace(made.recipe, **change)], made.encoding, {})
    with pytest.raises(ValueError, match="No image can have this recipe"):
        odd.save(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMAT_1)
def test_format_1(name):
    old = Recipe.from_json(FORMAT_1[name])
    said = json.loads(FORMAT_1[name])
    same = set(said) - {"loras", "model", "spans", "history", "forged"}
    assert all(getattr(old, each) == said[each] for each in same) and Recipe.from_json(old.to_json()) == old
    assert "/home" not in old.to_json() and old.edited == (name == "embeddings")


def test_format_1_is_made_again(pipe):
    assert not re.findall("weights|scheduler", differs(pipe, Recipe.from_json(FORMAT_1["plain"])))


@pytest.mark.parametrize(
    "change, reason",
    [({"format": 3}, "update llm-dit"), ({"colour": 1}, "'colour'"), ({"format": "2"}, "format is a str")],
)
def test_formats_that_are_unknown(made, change, reason):
    with pytest.raises(ValueError, match=reason):
        Recipe.from_json(json.dumps(json.loads(made.recipe.to_json()) | change))


# ---- F11: no path, and the web UI's grammar


@pytest.mark.parametrize("name", ["history", "forged", "spans", "loras", "sigmas"])
@pytest.mark.parametrize("value", ["abc", 5, {"a": 1}])
def test_a_list_that_is_none(made, name, value):
    """Text would be a list of its characters."""
    with pytest.raises(ValueError, match=f"{name} is a {type(value).__name__}"):
        Recipe.from_json(json.dumps({**json.loads(made.recipe.to_json()), name: value}))


@pytest.mark.parametrize("path", [None, 5, b"a.png", ["a.png"], "a\0.png", ""])
def test_what_is_no_path(made, path):
    with pytest.raises((TypeError, ValueError), match="path"):
        made.save(path)


def test_the_home_folder(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made.save("~/a.png")
    assert Recipe.from_image("~/a.png") == made.recipe and (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    "latents",
    [[1], np.zeros((1, 16, 8, 8), np.float32), torch.zeros(1, 16, 4, 4), torch.zeros(1, 16, 8, 8, dtype=torch.int64)],
)
def test_latents_that_are_none(pipe, made, latents):
    with pytest.raises((TypeError, ValueError), match="latents"):
        pipe.reproduce(made.recipe, latents=latents, progress=False)


def test_no_path_in_saved_embeddings_and_sweeps(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    folder = shutil.copytree(
        resolve_model("tiny"), tmp_path / "ann" / "models" / "z", ignore=shutil.ignore_patterns("training")
    )
    pipe, out = ZImagePipeline.from_pretrained(folder, device="cpu"), tmp_path / "out"
    Sweep(prompt=["a red circle"], height=64, width=64).run(pipe, out, progress=False)
    pipe.encoder.encode("a red circle").save(out / "encoding.safetensors")
    written = [file for file in out.rglob("*") if file.is_file()]
    assert error_sentence(OSError(f"{folder}/vae is missing")) == "OSError: ~/models/z/vae is missing", (
        "as a cell that failed is stored"
    )
    assert len(written) > 3 and not [
        file for file in written if b"ann/" in file.read_bytes() or str(tmp_path).encode() in file.read_bytes()
    ]


def test_no_path(tmp_path):
    folder = shutil.copytree(resolve_model("tiny"), tmp_path / "secret" / "mine")
    made = ZImagePipeline.from_pretrained(folder, device="cpu")(PROMPT, **QUICK)
    for ending in (".png", ".jpg", ".webp", ".tiff"):
        (file,) = made.save(tmp_path / f"x{ending}")
        assert b"secret" not in file.read_bytes() and "secret".encode("utf-16-be") not in file.read_bytes()
    assert made.recipe.model == "mine"


def parse(text):
    """The grammar that the web UI documents: a prompt, a negative prompt, and `name: value` pairs on the last line."""
    *lines, last = text.strip().split("\n")
    parts, place = {"prompt": [], "negative": []}, "prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            place, line = "negative", line[len("Negative prompt:") :].strip()
        parts[place].append(line)
    settings, rest = {}, last
    while rest:
        name, rest = rest.lstrip().split(":", 1)
        rest = rest.lstrip()
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:]
        else:
            value = rest.split(",", 1)[0]
            rest = rest[len(value) :]
        settings[name] = value
        rest = rest.removeprefix(",")
    return "\n".join(parts["prompt"]), "\n".join(parts["negative"]), settings


@pytest.mark.parametrize(
    "prompt",
    [PROMPT, "one\ntwo\nSteps: 8, Sampler: none, Seed: 3", 'a "quoted", thing: 红 🔴', "a\nNegative prompt: b\nc"],
)
def test_parameters(made, prompt):
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n"
    spans = (("special", 0, 17), ("user", 17, 17 + len(prompt)), ("special", 17 + len(prompt), len(text)))
    record = {"name": "a: b, c", "file": "x.safetensors", "weight": 0.5, "type": "lora", "hash": "0123456789abcdef"}
    recipe = replace(
        made.recipe,
        text=text,
        spans=spans,
        model='mine, "new": 2',
        negative_prompt="dogs, cats",
        guidance_scale=2.0,
        loras=(record,),
        history=(),
        seed=7,
    )
    found, negative, settings = parse(recipe.parameters())
    assert found.replace("\u2060", "") == prompt and negative == "dogs, cats"
    assert settings["Model"] == 'mine, "new": 2' and settings["Seed"] == "7" and settings["CFG scale"] == "3"
    assert settings["Lora hashes"] == "a b c: 0123456789ab" and settings["Version"].startswith("llm-dit ")


# ---- F9: the ending is the format


@pytest.mark.parametrize(
    "ending, kind",
    [(".png", "PNG"), (".JPG", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP"), (".tif", "TIFF"), (".TIFF", "TIFF")],
)
def test_formats(made, tmp_path, ending, kind):
    (file,) = made.save(tmp_path / f"x{ending}")
    with Image.open(file) as image:
        assert image.format == kind and (image.tobytes() == made.image.tobytes()) == (kind != "JPEG")
        assert Recipe.from_image(image) == made.recipe
    assert Recipe.from_image(file) == Recipe.from_png(str(file)) == made.recipe


@pytest.mark.parametrize("name", ["x.gif", "x.bmp", "x", "x.v1.5", "x.json"])
def test_formats_without_room(made, tmp_path, name):
    with pytest.raises(ValueError, match=r"expected one of \.png, "):
        made.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


# ---- U5 and U11: embeddings


def test_an_edited_embedding(pipe, tmp_path):
    encoding = pipe.encoder.encode(PROMPT).scale(1.2)
    first = pipe(encoding, **QUICK)
    (file,) = first.save(tmp_path / "x.png")
    recipe = Recipe.from_image(file)
    assert recipe.edited and recipe.embedding_hash and recipe.history and "Edited embedding" in recipe.parameters()
    loaded = EncodingOutput.load(encoding.save(tmp_path / "x.safetensors"))
    assert pipe.reproduce(file, encoding=loaded, progress=False).image.tobytes() == first.image.tobytes()
    with pytest.raises(ValueError, match="encoding="):
        pipe.reproduce(file, progress=False)
    with pytest.raises(ValueError, match="fingerprint"):
        pipe.reproduce(file, encoding=encoding.scale(2), progress=False)


@pytest.mark.parametrize("change", [lambda x: x.numpy(), lambda x: x.long(), lambda x: x.tolist()])
def test_an_embedding_that_is_no_tensor_of_floats(pipe, change):
    encoding = pipe.encoder.encode(PROMPT)
    with pytest.raises(TypeError, match="expected a tensor of floats"):
        replace(encoding, embeddings=[change(encoding.embedding)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_an_embedding_of_another_dtype(pipe, tmp_path, dtype):
    """numpy gives float64."""
    encoding = replace(plain := pipe.encoder.encode(PROMPT), embeddings=[plain.embedding.to(dtype)])
    made = pipe(encoding, **QUICK)
    encoding.save(tmp_path / "e.safetensors")
    again = pipe.reproduce(made.recipe, encoding=EncodingOutput.load(tmp_path / "e.safetensors"), progress=False)
    assert made.recipe.edited and again.image.tobytes() == made.image.tobytes()
    if dtype == torch.float64:
        assert made.image.tobytes() == pipe(PROMPT, **QUICK).image.tobytes()


def test_an_embedding_made_before(pipe):
    first = pipe(pipe.encoder.encode(PROMPT), **QUICK)
    assert not first.recipe.edited and first.recipe.embedding_hash
    again = pipe.reproduce(first.recipe, progress=False)
    assert again.image.tobytes() == first.image.tobytes() and again.recipe == first.recipe


def test_limits_of_the_encoder(pipe):
    """A long prompt is read as it was, whatever the limit of the pipeline that makes it again."""
    other = ZImagePipeline.from_pretrained("tiny", device="cpu", max_length=40, on_overflow="pool")
    first = other(PROMPT + ", and more" * 20, **QUICK)
    assert (first.recipe.max_length, first.recipe.on_overflow) == (40, "pool")
    again = pipe.reproduce(first.recipe, progress=False)
    assert again.image.tobytes() == first.image.tobytes() and again.recipe == first.recipe
    assert other("a cat", **QUICK).recipe.max_length == 512


def test_what_the_recipe_says_is_not_an_option(pipe, made):
    with pytest.raises(ValueError, match=r"dataclasses.replace"):
        pipe.reproduce(made.recipe, seed=9)
