"""The command line has the options of the API, and refuses every bad input with one sentence before anything is
loaded.
"""

import inspect
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import import_module
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import typer
from PIL import Image

import llm_dit
from llm_dit import Recipe, ZImagePipeline
from llm_dit.cli.commands import app
from llm_dit.cli.parameters import LEFT_OUT

pytestmark = pytest.mark.side_by_side

#: What each command calls, as module, name and the parameters that its own arguments stand for.
CALLS = {
    "generate": [
        ("generation.pipeline", "ImagePipeline.__call__"),
        ("generation.pipeline", "ImagePipeline.from_pretrained"),
        ("encoding.encoder", "TextEncoder.format"),
        ("encoding.protocols", "BackendConfig"),
    ],
    "reproduce": [
        ("generation.pipeline", "ImagePipeline.reproduce"),
        ("generation.pipeline", "ImagePipeline.from_pretrained"),
        ("encoding.protocols", "BackendConfig"),
    ],
    "encode": [
        ("encoding.encoder", "TextEncoder.from_pretrained"),
        ("encoding.encoder", "TextEncoder.encode"),
        ("encoding.encoder", "TextEncoder.format"),
        ("encoding.protocols", "BackendConfig"),
    ],
    "sweep": [
        ("studies.sweep", "Sweep.run"),
        ("studies.scale", "RayExecutor"),
        ("generation.pipeline", "ImagePipeline.from_pretrained"),
        ("encoding.protocols", "BackendConfig"),
    ],
    "info": [("generation.memory", "memory_plans")],
    "bench encode": [("cli.encoding_benchmark", "bench_encode")],
    "bench generate": [("cli.image_benchmark", "bench_generate")],
}
#: Parameters of one function that a command names otherwise.
NAMED_OTHERWISE = {
    "reproduce": {"recipe": "file"},
    "info": {"device": "vram", "available": "vram", "text_encoder": "vram"},
}


def command(name):
    found = typer.main.get_command(app)
    for part in name.split():
        found = found.commands[part]
    return found


def api_parameters(module, name):
    thing = import_module(f"llm_dit.{module}")
    for part in name.split("."):
        thing = getattr(thing, part)
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        each.name
        for each in inspect.signature(thing).parameters.values()
        if each.kind not in kinds and each.name != "self"
    ]


def run(*arguments, cwd, **environment):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", "TERM": "dumb", **environment}
    program = [sys.executable, "-c", "from llm_dit.cli.commands import main; main()"]
    done = subprocess.run([*program, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def main(monkeypatch, capsys, *arguments):
    """The same in this process."""
    from llm_dit.cli.commands import main

    monkeypatch.setattr(sys, "argv", ["llm-dit", *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    out, err = capsys.readouterr()
    lines = [line.rpartition("\r")[2] for line in err.split("\n")]
    return (
        code,
        out,
        "\n".join(line for line in lines if "%|" not in line),
    )  # tqdm was imported before bars were switched off


@pytest.mark.parametrize("name", CALLS)
def test_every_parameter_of_the_api_is_an_option(name):
    """Each is an option or an argument of the command, or is left out for a reason that stands in `LEFT_OUT`."""
    options = {each.name for each in command(name).params}
    for module, function in CALLS[name]:
        wanted = {NAMED_OTHERWISE.get(name, {}).get(each, each) for each in api_parameters(module, function)}
        missing = wanted - options - LEFT_OUT.keys()
        assert not missing, (
            f"llm-dit {name}: {function} has {sorted(missing)}; make them options, or say in LEFT_OUT why not"
        )


def test_what_is_left_out_is_there_and_has_a_reason():
    known = {each for calls in CALLS.values() for call in calls for each in api_parameters(*call)}
    assert LEFT_OUT.keys() <= known and all(LEFT_OUT.values())
    assert not LEFT_OUT.keys() & {each.name for each in command("generate").params}


def test_every_option_has_a_help_text():
    def leaves(group, path=()):
        for name, each in group.commands.items():
            yield from leaves(each, (*path, name)) if hasattr(each, "commands") else [((*path, name), each)]

    silent = [
        f"{' '.join(path)} --{each.name}"
        for path, leaf in leaves(typer.main.get_command(app))
        for each in leaf.params
        if each.name != "help" and not getattr(each, "help", None)
    ]
    assert not silent


def test_help_names_all_five_overflow_modes(tmp_path):
    code, out, _ = run("encode", "--help", cwd=tmp_path)
    words = " ".join(out.replace("│", " ").split())
    assert code == 0 and all(f'"{mode}"' in words for mode in ("warn", "error", "window", "interpolate", "pool"))


def test_version(monkeypatch, capsys):
    assert main(monkeypatch, capsys, "--version") == (0, f"llm-dit {llm_dit.__version__}\n", "")


@pytest.mark.parametrize("mode", ["warn", "window", "interpolate", "pool"])
def test_overflow_modes(monkeypatch, capsys, mode):
    code, out, err = main(
        monkeypatch, capsys, "encode", "a red circle " * 30, "--max-length", 40, "--on-overflow", mode
    )
    assert code == 0 and "EncodingOutput" in out and ("max_length=40" in err) == (mode == "warn") and ".py" not in err


def test_negative_prompt_and_several_outputs(monkeypatch, capsys, tmp_path):
    names = [tmp_path / name for name in ("circle.png", "star.png")]
    outputs = [word for name in names for word in ("-o", name)]
    small = ["--height", 32, "--width", 32, "--num-inference-steps", 1]
    code, out, err = main(
        monkeypatch,
        capsys,
        "generate",
        "a red circle",
        "a blue star",
        *outputs,
        *small,
        "--guidance-scale",
        2,
        "--negative-prompt",
        "green",
    )
    assert code == 0, err
    recipes = [Recipe.from_png(name) for name in names]
    assert [recipe.negative_prompt for recipe in recipes] == ["green"] * 2
    assert "a red circle" in recipes[0].text and "a blue star" in recipes[1].text and out.count("picture: ") == 2


def test_reproduce_passes_the_hidden_state_on(monkeypatch, capsys, tmp_path):
    small = dict(height=32, width=32, num_inference_steps=1, progress=False)
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu", hidden_layer=-1)
    pipe("a red circle", hidden_layer=-1, **small).save(tmp_path / "last.png")
    code, out, err = main(monkeypatch, capsys, "reproduce", tmp_path / "last.png", "-o", tmp_path / "again.png")
    assert code == 0 and "the same pixels" in out, err


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff"])
def test_the_ending_chooses_the_format(monkeypatch, capsys, tmp_path, ending):
    """The file is what its name says, carries its recipe, and is reproduced."""
    name = tmp_path / f"circle.{ending}"
    small = ["--height", 32, "--width", 32, "--num-inference-steps", 1]
    assert main(monkeypatch, capsys, "generate", "a red circle", "-o", name, *small)[0] == 0
    with Image.open(name) as image:
        assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF"}[ending]
    code, out, err = main(monkeypatch, capsys, "reproduce", name, "-o", tmp_path / f"again.{ending}")
    assert code == 0 and "the same pixels" in out, err


def test_reproduce_from_an_edited_embedding(monkeypatch, capsys, tmp_path):
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
    encoding = pipe.encoder.encode("a red circle").clamp(5)
    encoding.save(tmp_path / "e.safetensors")
    pipe(encoding, height=32, width=32, num_inference_steps=1, progress=False).save(tmp_path / "x.png")
    code, _, err = main(monkeypatch, capsys, "reproduce", tmp_path / "x.png", "-o", tmp_path / "y.png")
    assert code == 2 and err.startswith("llm-dit: ")
    code, out, err = main(
        monkeypatch,
        capsys,
        "reproduce",
        tmp_path / "x.png",
        "-o",
        tmp_path / "y.png",
        "--encoding",
        tmp_path / "e.safetensors",
    )
    assert code == 0 and "the same pixels" in out, err


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    Image.new("RGB", (32, 32)).save(folder / "plain.png")
    (folder / "text.txt").write_text("no image")
    (folder / "foreign").mkdir()
    (folder / "foreign/model_index.json").write_text(
        '{"_class_name": "Flux2Pipeline", "transformer": ["diffusers", "Flux2Transformer2DModel"]}'
    )
    return folder


REFUSED = {  # what is typed, and what the sentence must name
    "unknown option": (["generate", "a cat", "--sed", "3"], "--seed"),
    "unknown command": (["generat", "a cat"], "generat"),
    "no number": (["generate", "a cat", "--seed", "x"], "'x'"),
    "no decimal": (["generate", "a cat", "--guidance-scale", "much"], "'much'"),
    "half a step": (["generate", "a cat", "--num-inference-steps", "2.5"], "2.5"),
    "no step": (["generate", "a cat", "--steps", "0"], "num_inference_steps=0"),
    "no image": (["generate", "a cat", "--num-images", "0"], "num_images=0"),
    "size": (["generate", "a cat", "--height", "100"], "96"),
    "negative size": (["generate", "a cat", "--width", "-16"], "width=-16"),
    "guidance": (["generate", "a cat", "--guidance-scale", "inf"], "guidance_scale=inf"),
    "strength": (["generate", "a cat", "--strength", "1.5"], "strength=1.5"),
    "seed": (["generate", "a cat", "--seed", str(2**64)], "seed="),
    "overflow mode": (["generate", "a cat", "--on-overflow", "warm"], "'interpolate'"),
    "max length": (["generate", "a cat", "--max-length", "0"], "max_length=0"),
    "special tokens": (["generate", "a cat", "--special-tokens", "keep"], "'escape'"),
    "template": (["generate", "a cat", "--template", "bluprint"], "blueprint"),
    "ending": (["generate", "a cat", "-o", "x.xyz"], "x.xyz"),
    "no ending": (["generate", "a cat", "-o", "x"], "x"),
    "embedding ending": (["encode", "a cat", "--save", "x.png"], ".safetensors"),
    "heatmap ending": (["encode", "a cat", "--heatmap", "x.xyz"], "x.xyz"),
    "heatmap without ending": (["encode", "a cat", "--heatmap", "x"], ".png"),
    "outputs": (["generate", "a cat", "-o", "a.png", "-o", "b.png"], "2 times"),
    "output twice": (["generate", "a cat", "a dog", "-o", "a.png", "-o", "a.png"], "twice"),
    "LoRA weight": (["generate", "a cat", "--lora", "x.safetensors=strong"], "'strong'"),
    "LoRA weight NaN": (["generate", "a cat", "--lora", "x.safetensors=nan"], "'nan'"),
    "LoRA file": (["generate", "a cat", "--lora", "a=b.safetensors=0.5"], "a=b.safetensors"),
    "start image": (["generate", "a cat", "--image", "text.txt"], "text.txt"),
    "no start image": (["generate", "a cat", "--image", "no.png"], "there is no file no.png"),
    "no image to reproduce": (["reproduce", "no.png"], "There is no file no.png"),
    "foreign model": (["generate", "a cat", "--model", "foreign"], "foreign"),
    "foreign model, text only": (["encode", "a cat", "--model", "foreign"], "foreign"),
    "recipe": (["reproduce", "plain.png"], "no recipe"),
    "ray option": (["sweep", "x.yaml", "--store", "s", "--workers", "2"], "--num-workers 2"),
    "missing argument": (["generate"], "prompt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case, inputs, monkeypatch, capsys):
    arguments, named = REFUSED[case]
    monkeypatch.chdir(inputs)
    code, out, err = main(monkeypatch, capsys, *arguments)
    assert (
        code == 2 and not out and err.startswith("llm-dit: ") and err.count("\n") == 1 and named.lower() in err.lower()
    ), err
    assert len(err) > 20 and not list(inputs.glob("*.png"))[1:], "nothing was written"


EARLY = [case for case in REFUSED if not case.startswith("foreign")]


def test_refused_before_anything_is_loaded(inputs, monkeypatch, capsys):
    """No weights are read: the classes that load are replaced by ones that fail."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    from llm_dit.encoding.backends import TransformersBackend

    monkeypatch.setattr(TransformersBackend, "from_pretrained", load)
    monkeypatch.chdir(inputs)
    for case in EARLY:
        code, _, err = main(monkeypatch, capsys, *REFUSED[case][0])
        assert code == 2 and "was loaded" not in err, case


def test_a_lora_with_an_equals_sign_in_its_name(tmp_path, monkeypatch):
    from llm_dit.cli.checks import parse_loras

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.safetensors").touch()
    (tmp_path / "x=0.5").mkdir()
    assert parse_loras(
        ["a=b.safetensors", "a=b.safetensors=0.5", "x=0.5", "x=0.5=2", "someone/lora=.25", "someone/lora"]
    ) == [
        ("a=b.safetensors", 1.0),
        ("a=b.safetensors", 0.5),
        ("x=0.5", 1.0),
        ("x=0.5", 2.0),
        ("someone/lora", 0.25),
        ("someone/lora", 1.0),
    ]


def test_interrupted(tmp_path):
    """Ctrl+C ends with one line and exit code 130; a shell's background job would ignore it without a handler."""
    stop = (
        "import llm_dit.cli.commands, llm_dit.cli.embeddings, os, signal; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "llm_dit.cli.embeddings.check_text = lambda given: os.kill(os.getpid(), signal.SIGINT); "
        "llm_dit.cli.commands.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", stop, "encode", "a cat"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 130 and done.stderr == "llm-dit: stopped\n"


@contextmanager
def playground(
    folder, *options, program=(sys.executable, "-c", "from llm_dit.cli.commands import main; main()"), **environment
):
    """`llm-dit playground` in a folder; gives what its server answers to a path, and the process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {
        "TMPDIR": str(folder / "temporary"),
        **environment,
    }
    (folder / "temporary").mkdir()
    (folder / "here").mkdir()
    log = (folder / "log").open("w")
    command = [
        *map(str, program),
        "playground",
        "--no-browser",
        "--port",
        str(port),
        *options,
        "--",
        "--IdentityProvider.token=secret",
    ]
    process = subprocess.Popen(command, cwd=folder / "here", env=env, stdout=log, stderr=subprocess.STDOUT)

    def ask(path):
        for _ in range(300):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                with urlopen(f"http://127.0.0.1:{port}/{path}?token=secret", timeout=5) as answer:
                    return json.load(answer)
            except URLError as e:
                assert not hasattr(e, "code"), e
                time.sleep(0.2)
        raise TimeoutError((folder / "log").read_text())

    try:
        yield ask, process
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def test_playground_serves_a_notebook_in_any_folder(tmp_path):
    """The notebook is there, and the folder where the command was typed is as it was; afterwards nothing is left."""
    with playground(tmp_path, "--model", "tiny", "--device", "cpu") as (ask, process):
        cells = ask("api/contents/playground.ipynb")["content"]["cells"]
        assert "ImagePipeline.from_pretrained(model='tiny', device='cpu')" in cells[1]["source"]
        assert str(tmp_path / "here") in cells[1]["source"] and not list((tmp_path / "here").iterdir())
        assert len(list((tmp_path / "temporary").glob("llm_dit_playground_*"))) == 1
    assert process.returncode == 0 and not list((tmp_path / "temporary").glob("llm_dit_playground_*"))


@pytest.mark.parametrize(
    "wrong", [["--model", "./nowhere"], ["--on-overflow", "warm"], ["--port", "0"], ["--max-length", "0"]]
)
def test_playground_refuses_before_it_serves(wrong, monkeypatch, capsys):
    code, _out, err = main(monkeypatch, capsys, "playground", *wrong)
    assert code == 2 and err.startswith("llm-dit: ") and err.count("\n") == 1
