"""Threads, interrupts, strangers' files, absurd sizes: what once did not hold, and others of its kind."""

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from typer.testing import CliRunner

from llm_dit import (
    LIMITS,
    EncodingOutput,
    GenerationInterrupted,
    Recipe,
    Store,
    Sweep,
    TemplateError,
    TransformersBackend,
    ZImagePipeline,
    format_prompt,
    load_template,
)
from llm_dit.cli.commands import app
from llm_dit.core.opening import UnsafeFileError
from llm_dit.encoding.model_files import resolve_model
from llm_dit.encoding.tokenizing import PromptTokenizer
from llm_dit.prompts.formatter import FormattedPrompt, SpecialTokenWarning
from llm_dit.studies.results import csv_of

pytestmark = pytest.mark.side_by_side

TINY = Path(resolve_model("tiny"))
QUICK = dict(num_inference_steps=2, height=64, width=64, progress=False)


@pytest.fixture
def pipe():
    return ZImagePipeline.from_pretrained("tiny", device="cpu")


@pytest.fixture
def model(tmp_path):
    """A copy of the embedded checkpoint."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def change(file, **values):
    """Set fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def lora_file(path, pipe, seed=0, **odd):
    """A LoRA on one layer; `odd` replaces matrices, None leaves one out."""
    layer = pipe.transformer.layers[0].attention.to_q
    torch.manual_seed(seed)
    matrices = {
        "A": torch.randn(4, layer.in_features) * 0.3,
        "B": torch.randn(layer.out_features, 4) * 0.3,
    } | odd
    names = {f"transformer.layers.0.attention.to_q.lora_{k}.weight": x for k, x in matrices.items() if x is not None}
    save_file(names, path)
    return path


def in_threads(*works):
    """Do several things at once; the first exception comes out."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [each.result() for each in [pool.submit(work) for work in works]]


# ---- 1–7: state and threads


def test_two_threads_load_while_a_third_draws(pipe):
    """Libraries patch torch for the whole process while they load."""
    expected, done = pipe("a red star", **QUICK).image.tobytes(), threading.Event()

    def load(dtype):
        for _ in range(8):
            other = ZImagePipeline.from_pretrained("tiny", device="cpu", dtype=dtype)
            assert other.transformer.dtype == getattr(torch, dtype)

    def draw():
        found = []
        while not done.is_set():
            found.append(pipe("a red star", **QUICK).image.tobytes())
        return found

    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(draw)
        try:
            in_threads(lambda: load("bfloat16"), lambda: load("float32"))
        finally:
            done.set()
    assert set(drawn.result()) == {expected}
    assert torch.get_default_dtype() == torch.float32
    assert pipe("a red star", **QUICK).image.tobytes() == expected


def test_another_default_dtype_changes_no_pixel(pipe):
    """Nothing here leaves the dtype of what it allocates to chance."""
    calls = [dict(prompt="a red star"), dict(prompt="a star", guidance_scale=2.0, negative_prompt="red", seed=3)]
    calls.append(dict(prompt="a star", image=Image.new("RGB", (64, 64), "red")))
    options = {k: v for k, v in QUICK.items() if k not in ("height", "width")}
    expected = [pipe(**call, **(options if "image" in call else QUICK)) for call in calls]
    pipe.encoder.cache.clear()
    torch.set_default_dtype(torch.float64)
    try:
        found = [pipe(**call, **(options if "image" in call else QUICK)) for call in calls]
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, expected, strict=True):
        assert a.image.tobytes() == b.image.tobytes() and a.recipe == b.recipe


def test_loras_come_and_go_beside_free_and_encode(pipe, tmp_path):
    file, done = lora_file(tmp_path / "a.safetensors", pipe), threading.Event()
    pipe.encoder.cache.clear()
    expected = pipe.encoder.encode("a red star").embedding

    def come_and_go():
        try:
            for _ in range(15):
                pipe.load_lora(file)
                pipe.unload_lora()
        finally:
            done.set()

    def encode():
        while not done.is_set():
            pipe.encoder.backend.free()
            pipe.encoder.cache.clear()
            assert pipe.encoder.encode("a red star").embedding.equal(expected)

    in_threads(come_and_go, encode)


def test_a_lora_waits_for_the_image(pipe, tmp_path):
    """Each image is what its recipe says, however many threads change the LoRAs."""
    files = [lora_file(tmp_path / f"{n}.safetensors", pipe, n) for n in range(3)]
    expected = {(): pipe("a red star", **QUICK).image.tobytes()}
    for file in files:
        with pipe.load_lora(file):
            expected[file.stem,] = pipe("a red star", **QUICK).image.tobytes()
    assert len(set(expected.values())) == 4
    turn = threading.Lock()

    def change_loras(file):
        for _ in range(4):
            with turn:  # one at a time, or there are combinations
                with pipe.load_lora(file):
                    time.sleep(0.02)

    def draw():
        for _ in range(12):
            made = pipe("a red star", **QUICK)
            assert made.image.tobytes() == expected[tuple(lora["name"] for lora in made.recipe.loras)]

    in_threads(*(lambda file=file: change_loras(file) for file in files), draw, draw)
    assert not pipe.loras and pipe("a red star", **QUICK).image.tobytes() == expected[()]


INTERRUPTED = """
import os, random, signal, sys, threading, time
import torch
from llm_dit import ZImagePipeline
from tests.test_attacks import QUICK, lora_file

what, rounds, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins without
pipe = ZImagePipeline.from_pretrained("tiny", device="cpu", memory="balanced" if what == "free" else "auto")
file = lora_file(f"{folder}/{what}.safetensors", pipe)
plain = pipe("a red star", **QUICK).image.tobytes()
with pipe.load_lora(file):
    changed = pipe("a red star", **QUICK).image.tobytes()
assert changed != plain
works = {
    "load_lora": lambda: pipe.load_lora(file),
    "from_pretrained": lambda: ZImagePipeline.from_pretrained("tiny", device="cpu", dtype="bfloat16"),
    "free": lambda: (pipe.encoder.backend.free(), pipe.encoder.cache.clear(), pipe.encoder.encode("a star")),
    "generate": lambda: pipe("a star", **QUICK),
}
start = time.perf_counter()
works[what]()
usual, random, hits = time.perf_counter() - start, random.Random(what), 0
pipe.unload_lora()
for _ in range(rounds):
    timer = threading.Timer(random.random() * usual, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        works[what]()
        timer.join()
        time.sleep(0.001)
    except KeyboardInterrupt:
        hits += 1
    except Exception as e:
        if type(e).__name__ != "GenerationInterrupted":
            raise
        hits += 1
    timer.join()
    assert torch.get_default_dtype() == torch.float32
    made = pipe("a red star", **QUICK)
    assert [lora["name"] for lora in made.recipe.loras] == list(pipe.loras)
    assert made.image.tobytes() == (changed if pipe.loras else plain), (what, pipe.loras)
    pipe.unload_lora()
assert hits > rounds // 3, hits
print(hits)
"""
ROUNDS = int(os.environ.get("INTERRUPTS", 12))


@pytest.mark.parametrize("what", ["load_lora", "from_pretrained", "free", "generate"])
def test_an_interrupt_leaves_the_next_image_right(what, tmp_path):
    """At random moments; INTERRUPTS=500 makes as many rounds."""
    command = [sys.executable, "-c", INTERRUPTED, what, str(ROUNDS), str(tmp_path)]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=60 + 3 * ROUNDS, cwd=Path(__file__).parents[1]
    )
    assert found.returncode == 0, found.stderr[-2000:]


@pytest.mark.parametrize("odd", [dict(A=None), dict(B=None), dict(A=torch.ones(4)), dict(B=torch.ones(7, 9))])
def test_half_a_lora_is_refused(pipe, tmp_path, odd):
    with pytest.raises(ValueError) as caught:
        pipe.load_lora(lora_file(tmp_path / "a.safetensors", pipe, **odd))
    assert "\n" not in str(caught.value) and not pipe.loras


def test_a_call_in_a_callback_has_a_flag_of_its_own(pipe):
    inner = []

    def callback(*_):
        if not inner:
            pipe.cancel()
            inner.append(pipe("a blue circle", **QUICK))
        return {}

    with pytest.raises(GenerationInterrupted):
        pipe("a red star", callback_on_step_end=callback, **QUICK)
    assert len(inner) == 1 and pipe("a blue circle", **QUICK).image.tobytes() == inner[0].image.tobytes()


# ---- 8–15: files that reach further than the user named


@pytest.mark.parametrize("place", ["", "text_encoder", "transformer", "vae"])
def test_an_adapter_in_a_models_folder_is_refused(model, place):
    (model / place / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "somebody/else", "peft_type": "LORA"})
    )
    with pytest.raises(ValueError, match="holds adapter_config"):
        ZImagePipeline.from_pretrained(model, device="cpu")


OUTSIDE = """
import sys
from pathlib import Path
model, allowed = Path(sys.argv[1]).resolve(), [Path(each).resolve() for each in sys.argv[1:]]
import torch, transformers, diffusers, llm_dit, peft
from llm_dit import ZImagePipeline
ZImagePipeline.from_pretrained("tiny", device="cpu")("a", num_inference_steps=1, height=64, width=64, progress=False)
seen = []

def watch(event, arguments):
    if event.startswith("socket."):
        seen.append((event, str(arguments)))
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        path = Path(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()).resolve()
        if not any(each == path or each in path.parents for each in allowed):
            seen.append((event, str(path)))

sys.addaudithook(watch)
ZImagePipeline.from_pretrained(model, device="cpu")("a", num_inference_steps=1, height=64, width=64, progress=False)
print(*seen, sep="\\n")
"""


def test_a_local_folder_opens_no_socket_and_no_file_elsewhere(model):
    """The package's own files, those of the libraries and of the system apart."""
    own = [Path(__file__).parents[1] / "llm_dit", sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", "/usr", "/etc"]
    command = [sys.executable, "-c", OUTSIDE, str(model), *map(str, own)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0 and not found.stdout.strip(), found.stdout + found.stderr[-2000:]


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/tmp/x) (w) file\nshowpage\n"


def test_postscript_is_no_image(pipe, tmp_path):
    """Pillow would start Ghostscript on it."""
    (tmp_path / "a.png").write_bytes(POSTSCRIPT)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        pipe("a star", image=tmp_path / "a.png", **QUICK)
    with pytest.raises(ValueError, match="is not an image"):
        Recipe.from_image(tmp_path / "a.png")
    results = Sweep(prompt="a star", **{k: v for k, v in QUICK.items() if k != "progress"}).run(
        pipe, tmp_path / "store", progress=False
    )
    kept = next((tmp_path / "store").rglob("*.png"))
    kept.write_bytes(POSTSCRIPT.ljust(kept.stat().st_size))  # as long as the picture was
    with pytest.raises(ValueError, match="is no image"):
        results.image(0)


def test_a_picture_of_any_size_is_refused(pipe, tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="pixels"):
        pipe("a star", image=tmp_path / "bomb.png", **QUICK)


@pytest.mark.parametrize("link", ["index.jsonl", "entries", "entries/aa"])
def test_links_in_a_store_are_not_followed(tmp_path, link):
    outside, store = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    (store / link).parent.mkdir(parents=True, exist_ok=True)
    target = outside / "mine.txt" if link == "index.jsonl" else outside
    if link == "index.jsonl":
        target.write_text("mine")
    (store / link).symlink_to(target)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            filled = Store(store)
            for n in range(600):  # some keys begin with aa
                filled.put({"n": n}, files={"png": b"x"})
        except UnsafeFileError as e:
            assert "is a link" in str(e)
        else:
            raise AssertionError("600 entries were written past a link")
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


def test_outputs_onto_links_devices_and_pipes(pipe, tmp_path):
    made = pipe("a star", **QUICK)
    target, link = tmp_path / "target.png", tmp_path / "link.png"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    made.save(link)
    assert link.is_symlink() and Recipe.from_image(target) == made.recipe and target.stat().st_mode & 0o777 == 0o600
    os.mkfifo(tmp_path / "pipe.png")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe.png").read_bytes()), daemon=True)
    reader.start()
    made.save(tmp_path / "pipe.png")
    reader.join(10)
    assert read[0].startswith(b"\x89PNG") and (tmp_path / "pipe.png").is_fifo()


ESCAPE = "\x1b]52;c;Y2F0\x07"


@pytest.mark.parametrize(
    "text",
    [
        f"---\nname: a\n---\n{ESCAPE}\n",
        f"---\nname: a\ndescription: {ESCAPE}\n---\nb\n",
        '---\nname: a\ndescription: "\\e]52;c;Y2F0\\a"\n---\nb\n',
        "---\nname: a\n---\n\x9b31m\n",
    ],
)
def test_control_characters_in_a_template(tmp_path, text):
    (tmp_path / "a.md").write_text(text)
    with pytest.raises(TemplateError, match=r"control character|YAML"):
        load_template(tmp_path / "a.md")


def test_a_terminal_is_told_nothing(tmp_path):
    """Whatever names, errors and texts say."""
    for words in (
        ["encode", ESCAPE],
        ["templates", "show", ESCAPE],
        ["sweep", ESCAPE],
        ["reproduce", f"{ESCAPE}.png"],
    ):
        found = CliRunner().invoke(app, words, env={"NO_COLOR": "1"})
        assert "\x1b]" not in found.output and "\x07" not in found.output, words


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_config_names_no_kernel(model, name):
    expected = TransformersBackend.from_pretrained(model, device="cpu").encode(["a star"]).embedding
    change(model / "text_encoder" / "config.json", **{name: "kernels-community/flash-attn"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = TransformersBackend.from_pretrained(model, device="cpu")
    assert backend.encode(["a star"]).embedding.equal(expected)
    assert any("kernels-community" in str(each.message) for each in caught) or name.startswith("experts")


def test_two_recipes_in_one_picture(pipe, tmp_path):
    """Readers disagree which counts."""
    made = pipe("a star", **QUICK)
    info = PngImagePlugin.PngInfo()
    for prompt in ("a star", "a cat"):
        info.add_itxt("llm_dit_recipe", made.recipe.to_json().replace("a star", prompt))
    made.image.save(tmp_path / "two.png", pnginfo=info)
    opened = Image.open(tmp_path / "two.png")
    opened.load()
    for image in (tmp_path / "two.png", Image.open(tmp_path / "two.png"), opened):
        with pytest.raises(ValueError, match="2 recipes"):
            Recipe.from_image(image)


# ---- 16–23: absurd sizes, endless time


def test_absurd_numbers_are_refused_at_once(pipe, tmp_path):
    endless = range(10**9)
    asked = [
        lambda: pipe("a", num_inference_steps=10**9),
        lambda: pipe("a", num_images=10**9),
        lambda: pipe("a", seed=endless),
        lambda: pipe(["a"] * 200, num_images=10**6),
        lambda: Sweep(prompt="a", seed=endless),
        lambda: Sweep(prompt=["a"] * 1000, seed=range(10**4)),
        lambda: Sweep.of({"prompt": "a"} for _ in endless),
        lambda: pipe("a " * 10**7),
        lambda: pipe("a", height=8192, width=8192, batch_size=10**4),
    ]
    for ask in asked:
        start = time.perf_counter()
        with pytest.raises(ValueError) as caught:
            ask()
        assert time.perf_counter() - start < 2 and "\n" not in str(caught.value), str(caught.value)


def test_a_recipe_cannot_ask_for_everything(pipe, tmp_path):
    """The file of a stranger, with a number of steps that takes years."""
    made = pipe("a star", **QUICK)
    said = json.loads(made.recipe.to_json()) | {"num_inference_steps": 10**9}
    info = PngImagePlugin.PngInfo()
    info.add_itxt("llm_dit_recipe", json.dumps(said))
    made.image.save(tmp_path / "evil.png", pnginfo=info)
    with pytest.raises(ValueError, match="num_inference_steps"):
        pipe.reproduce(tmp_path / "evil.png")


def test_limits_can_be_raised(pipe, monkeypatch):
    monkeypatch.setattr(LIMITS, "images", 1)
    with pytest.raises(ValueError, match="set llm_dit"):
        pipe("a star", num_images=2, **QUICK)
    monkeypatch.setattr(LIMITS, "images", 2)
    assert len(pipe("a star", num_images=2, **QUICK).images) == 2


BOMBS = {
    "references": "a: &a [x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)),
    "depth": "arguments: " + "[" * 5000,
    "size": "arguments: {prompt: [" + "a, " * 10**6 + "]}",
    "tag": "!!python/object/apply:os.system [ls]",
    "keys": "arguments: {prompt: a, 1: 2}",
    "self": "arguments: {prompt: a, self: 1}",
    "how": "arguments: {prompt: a, how: zip}",
    "cls": "arguments: {prompt: a, cls: 1}",
    "product": "arguments: {prompt: [" + "a, " * 2000 + "], seed: [" + "1, " * 2000 + "]}",
    "cells": "cells: [{1: 2}]",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_sweep_file_of_a_stranger(tmp_path, kind):
    (tmp_path / "a.yaml").write_text(BOMBS[kind])
    start = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        Sweep.from_yaml(tmp_path / "a.yaml")
    assert time.perf_counter() - start < 2 and "\n" not in str(caught.value)


CONFIGS = [
    ("text_encoder", dict(num_hidden_layers=10**9)),
    ("text_encoder", dict(vocab_size=10**9)),
    ("text_encoder", dict(hidden_size=10**7)),
    ("text_encoder", dict(intermediate_size=10**9)),
    ("text_encoder", dict(transformers_weights="../../other.safetensors")),
    ("transformer", dict(n_layers=10**9)),
    ("transformer", dict(n_refiner_layers=10**6)),
    ("transformer", dict(dim=10**9)),
    ("transformer", dict(axes_lens=[10**9, 10**9, 10**9])),
    ("vae", dict(layers_per_block=10**9)),
    ("vae", dict(block_out_channels=[10**9])),
    ("scheduler", dict(num_train_timesteps=10**10)),
]


@pytest.mark.parametrize("part, values", CONFIGS)
def test_a_config_of_any_size(model, part, values):
    change(next((model / part).glob("*config.json")), **values)
    start = time.perf_counter()
    with pytest.raises((ValueError, OSError)) as caught:
        ZImagePipeline.from_pretrained(model, device="cpu")
    assert time.perf_counter() - start < 5 and "\n" not in str(caught.value), str(caught.value)


@pytest.mark.parametrize("scheduler", [["diffusers", "NoSuch"], ["os", "system"], ["diffusers", "AutoencoderKL"]])
def test_a_scheduler_that_is_none(model, scheduler):
    change(model / "model_index.json", scheduler=scheduler)
    with pytest.raises(ValueError, match="scheduler"):
        ZImagePipeline.from_pretrained(model, device="cpu")


def test_a_header_as_long_as_a_sparse_file(model, pipe, tmp_path):
    for file in (model / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "lora.safetensors"):
        with open(file, "wb") as opened:
            opened.write(struct.pack("<Q", 10 * 2**30 - 8))
            opened.truncate(10 * 2**30)
    nested = tmp_path / "nested.safetensors"
    nested.write_bytes(struct.pack("<Q", 10**6) + b"[" * 10**6)
    for refused in (
        lambda: ZImagePipeline.from_pretrained(model, device="cpu"),
        lambda: pipe.load_lora(tmp_path / "lora.safetensors"),
        lambda: pipe.load_lora(nested),
        lambda: EncodingOutput.load(nested),
    ):
        start = time.perf_counter()
        with pytest.raises((ValueError, OSError)) as caught:
            refused()
        assert time.perf_counter() - start < 2 and "\n" not in str(caught.value)


PIPES = [
    "model_index.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "scheduler/scheduler_config.json",
]


@pytest.mark.parametrize("name", PIPES)
def test_a_pipe_in_a_model(model, name):
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises((ValueError, OSError)) as caught:
        ZImagePipeline.from_pretrained(model, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_pipe_elsewhere(pipe, tmp_path):
    for name in ("a.safetensors", "a.png", "a.yaml", "a.md", "index.jsonl"):
        os.mkfifo(tmp_path / name)
    for refused in (
        lambda: pipe.load_lora(tmp_path / "a.safetensors"),
        lambda: EncodingOutput.load(tmp_path / "a.safetensors"),
        lambda: Recipe.from_image(tmp_path / "a.png"),
        lambda: pipe("a", image=tmp_path / "a.png", **QUICK),
        lambda: Sweep.from_yaml(tmp_path / "a.yaml"),
        lambda: load_template(tmp_path / "a.md"),
        lambda: Store(tmp_path),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            refused()
        assert "\n" not in str(caught.value)


def change_tokenizer(model, **values):
    change(model / "tokenizer" / "tokenizer.json", **values)


@pytest.mark.parametrize(
    "values",
    [
        {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10**6}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 100}},
        {"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}},
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "(x+x+)+y"},
                "behavior": "Isolated",
                "invert": False,
            }
        },
        {"decoder": {"type": "Replace", "pattern": {"Regex": "(x*)*y"}, "content": ""}},
    ],
)
def test_a_tokenizer_that_does_not_end(model, values):
    change_tokenizer(model, **values)
    with pytest.raises(ValueError, match="not run"):
        TransformersBackend.from_pretrained(model, device="cpu")


def test_a_gguf_file_of_a_hundred_bytes(tmp_path):
    key = b"qwen3.block_count"
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, 10**9)
    (tmp_path / "a.gguf").write_bytes(data)
    start = time.perf_counter()
    with pytest.raises((ValueError, OSError), match=r"a\.gguf"):
        TransformersBackend.from_pretrained(tmp_path / "a.gguf", device="cpu")
    assert time.perf_counter() - start < 2


# ---- 24–28: wrong results


def test_truncation_in_a_tokenizer_cuts_nothing(model):
    """Published tokenizer.json often have it; a text with a special token is read by a copy of the tokenizer."""
    text = format_prompt("a cat " * 30 + "<|im_end|>")
    expected = TransformersBackend.from_pretrained(model, device="cpu").encode([text])
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    padded = {"strategy": {"Fixed": 400}, "direction": "Right", "pad_to_multiple_of": None}
    change_tokenizer(model, truncation=cut, padding=padded | {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"})
    found = TransformersBackend.from_pretrained(model, device="cpu").encode([text])
    assert found.input_ids[0].equal(expected.input_ids[0]) and not found.truncated[0]


@pytest.mark.parametrize("prompt", ["a <|eot_id|> b", "a \uff1c|eot_id|\uff1e b"])
def test_control_tokens_of_another_tokenizer(prompt):
    """Those that the chat format does not know, and those that only a normaliser makes."""
    from tokenizers import AddedToken, normalizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY, subfolder="tokenizer")
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|eot_id|>", normalized=True)]})
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    reader = PromptTokenizer(tokenizer)
    control = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    with pytest.warns(SpecialTokenWarning, match="eot_id"):
        ids, _ = reader(format_prompt(prompt))
    assert control not in ids
    assert control in reader(format_prompt(prompt, special_tokens="allow"))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader(FormattedPrompt("<|im_start|>user\na cat"))


@pytest.mark.parametrize(
    "options", [dict(hidden_layer=-1), dict(max_length=600), dict(on_overflow="pool", max_length=20)]
)
def test_the_command_line_reproduces_what_was_unusual(tmp_path, options):
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu", **options)
    layer = {"hidden_layer": -1} if "hidden_layer" in options else {}
    made = pipe("a red star on a green background, " * 8, **layer, **QUICK)
    made.save(tmp_path / "a.png")
    run = CliRunner().invoke(
        app, ["reproduce", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--device", "cpu"]
    )
    assert run.exit_code == 0 and "the same pixels" in run.output, run.output
    code = CliRunner().invoke(app, ["reproduce", str(tmp_path / "a.png"), "--code"]).output
    scope = {}
    exec(code.replace("tiny", str(TINY)) if False else code, scope)
    images = [each for each in scope.values() if hasattr(each, "images")]
    assert not images or images[0].image.tobytes() == made.image.tobytes()


def test_numbers_of_numpy_are_numbers(pipe, tmp_path):
    import numpy as np

    made = pipe(
        "a star",
        seed=np.int64(3),
        guidance_scale=np.float32(1.5),
        num_inference_steps=np.int32(2),
        height=64,
        width=64,
        progress=False,
    )
    assert Recipe.from_image(made.save(tmp_path / "a.png")[0]) == made.recipe
    for odd in (dict(num_inference_steps=True), dict(guidance_scale=True), dict(strength=True, image=made.image)):
        with pytest.raises(TypeError, match="expected"):
            pipe("a star", **odd)


def test_embeddings_of_another_width(pipe):
    width = pipe.encoder.backend.embedding_dim
    with pytest.raises(ValueError, match=f"takes {width}"):
        pipe(prompt_embeds=torch.ones(4, width + 1), **QUICK)


def test_cells_that_a_spreadsheet_would_calculate():
    table = pd.DataFrame({"prompt": ["=1+1", "+1", "@x", "a"], "n": [-1, 2, 3, 4]})
    assert csv_of(table).splitlines()[1:] == ["'=1+1,-1", "'+1,2", "'@x,3", "a,4"]


def test_no_socket_is_open_to_others():
    """A cluster of Ray that is started here listens on this machine alone."""
    pytest.importorskip("ray")
    code = """
from llm_dit.studies.scale import RayBackend
backend = RayBackend.from_pretrained("tiny", device="cpu")
import psutil, os
own = [psutil.Process(), *psutil.Process().children(recursive=True)]
print(*{c.laddr.ip for p in own for c in p.net_connections() if c.status == "LISTEN"})
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert found.returncode == 0, found.stderr[-1500:]
    assert set(found.stdout.split()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, found.stdout
