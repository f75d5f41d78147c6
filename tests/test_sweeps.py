"""Sweeps under kill -9, in two processes at once, and on a full disk. SWEEP_KILLS (15) kills more often."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import tqdm.auto
from PIL import Image
from safetensors import SafetensorError

import llm_dit.core.files
from llm_dit.encoding.z_image_encoder import ZImageTextEncoder
from llm_dit.generation.z_image_pipeline import ZImagePipeline
from llm_dit.prompts.conversation import Conversation
from llm_dit.studies.store import Store, StoreFullError
from llm_dit.studies.sweep import Sweep, SweepInterrupted

pytestmark = pytest.mark.side_by_side

KILLS = int(os.environ.get("SWEEP_KILLS", 15))
TEXTS = Sweep(
    prompt=[f"{n} {color} dogs" for n in range(20) for color in ("red", "blue", "green", "white", "black")],
    thinking=[None, "on a green field"],
)
PICTURES = Sweep(prompt=["a red star", "a blue circle"], seed=range(10), num_inference_steps=4)


class Logging:
    """A backend that writes down which texts it is given, before it encodes them, and takes its time."""

    def __init__(self, backend, log):
        self.backend, self.log = backend, log

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def encode(self, texts, **options):
        os.write(self.log, json.dumps([*map(str, texts)]).encode() + b"\n")
        time.sleep(0.003)
        return self.backend.encode(texts, **options)


def log_pictures(log):
    """The same for pictures, in this process."""
    call = ZImagePipeline.__call__

    def logged(self, encoding, **options):
        os.write(log, json.dumps([f"{encoding.texts[0]!s} {options['seed']}"]).encode() + b"\n")
        return call(self, encoding, **options)

    ZImagePipeline.__call__ = logged


def run(kind, model, folder):
    return (PICTURES if kind == "pictures" else TEXTS).run(model, folder, texts_per_call=2, progress=False)


def load(kind):
    torch.set_num_threads(1)
    return (ZImagePipeline if kind == "pictures" else ZImageTextEncoder).from_pretrained("tiny", device="cpu")


def kill_often(folder, kind, kills):
    """Start a sweep, kill it at a random moment, start it again …; then let it finish.

    Forks, so that the model is loaded once. Prints what each process was given to compute.
    """
    model, runs, killed = load(kind), [], 0
    encoder = model.encoder if kind == "pictures" else model
    for round_number in range(int(kills) + 1):
        last, (reader, writer) = round_number == int(kills), os.pipe()
        child = os.fork()
        if not child:
            for bar in (tqdm.std.tqdm, tqdm.auto.tqdm):
                bar.set_lock(threading.RLock())  # the usual one is shared with forks, and a killed one would keep it
            encoder.backend = Logging(encoder.backend, writer)
            log_pictures(writer)
            run(kind, model, folder)
            os._exit(0)
        os.close(writer)
        lines = open(reader)
        given = []
        if not last:
            given = [
                json.loads(line)
                for _, line in zip(range(random.randrange(max(2, 150 // int(kills)) if kind == "texts" else 4)), lines)
            ]
            time.sleep(random.random() * (0.006 if given else 0.05 if kind == "texts" else 0.2))
            os.kill(child, signal.SIGKILL)
        given += [json.loads(line) for line in lines if line.endswith("\n")]
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status)
        assert not last or status == 0
        runs.append(given)
    print(json.dumps(dict(runs=runs, killed=killed)))


def run_once(folder, kind):
    """Load, wait for a line, run, and print how many texts were encoded."""
    model, log = load(kind), os.open(Path(folder) / f"{os.getpid()}.log", os.O_RDWR | os.O_CREAT)
    model.backend = Logging(model.backend, log)
    print("ready", flush=True)
    sys.stdin.readline()
    run(kind, model, Path(folder) / "store")
    print(sum(len(json.loads(line)) for line in os.pread(log, 10**8, 0).splitlines()))


def child(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return {kind: run(kind, load(kind), tmp_path_factory.mktemp("undisturbed")) for kind in ("texts", "pictures")}


@pytest.fixture(scope="module")
def models():
    return {kind: load(kind) for kind in ("texts", "pictures")}


def compare(kind, model, folder, expected):
    """What is in a store is what an undisturbed run gives, without a damaged file and without computing anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = Store(folder)
        plan = (PICTURES if kind == "pictures" else TEXTS).plan(model, store)
        assert not plan.missing("encodings") and not plan.missing("drawings")
        found = run(kind, model, store)
    volatile = ["norm", "seconds"]
    assert found.table.drop(columns=volatile).equals(expected.table.drop(columns=volatile))
    assert ((found.table.norm / expected.table.norm - 1).abs() < 1e-5).all(), "up to the rounding of another batch"
    for i in range(len(found)):
        a, b = found.embedding(i), expected.embedding(i)
        assert a.tokens == b.tokens and (a.embedding - b.embedding).abs().max() <= 1e-5 * b.embedding.abs().max()
        if kind == "pictures":
            assert a.embedding.equal(b.embedding) and found.image(i).tobytes() == expected.image(i).tobytes()
    store.rebuild()
    assert len(store) == len(expected.store)


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_killed_at_random_moments(tmp_path, models, undisturbed, kind):
    kills = KILLS if kind == "texts" else min(KILLS, 8)
    process = child("kill_often", tmp_path, kind, kills)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    said = json.loads(out)
    runs = said["runs"]
    in_flight = [set(given[-1]) if given else set() for given in runs]
    for later, given in enumerate(runs):
        for earlier in range(later):
            twice = {text for texts in given for text in texts} & {text for texts in runs[earlier] for text in texts}
            assert twice <= in_flight[earlier], "only what was in flight is computed again"
    print(
        f"\n{said['killed']} of {kills} killed; computed {[sum(map(len, given)) for given in runs]}, "
        f"{sum(len(texts) for given in runs for texts in given)} in all for {len(undisturbed[kind].store)} entries"
    )
    assert said["killed"] >= kills / 2 and sum(map(bool, runs)) > 1
    compare(kind, models[kind], tmp_path, undisturbed[kind])


def wait_until(happens, seconds=60):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_two_processes_at_once(tmp_path, models, undisturbed):
    children = [child("run_once", tmp_path, "texts") for _ in range(2)]
    assert [c.stdout.readline() for c in children] == ["ready\n"] * 2
    for c in children:
        c.stdin.write("go\n")
        c.stdin.flush()
        wait_until(
            lambda: any((tmp_path / "store" / "working").glob("*")) or c.poll() is not None
        )  # the second sees that the first is at work
    counts = [int(c.communicate(timeout=120)[0]) for c in children]
    print(f"\n{counts} texts encoded")
    assert [c.returncode for c in children] == [0, 0] and sum(counts) < 1.5 * len(TEXTS), "they share the work"
    compare("texts", models["texts"], tmp_path / "store", undisturbed["texts"])


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail_from(call, function, before=lambda *args: None):
    """The function, which raises from some call on, after doing something."""
    calls = iter(range(10**9))

    def failing(*args, **options):
        if next(calls) < call:
            return function(*args, **options)
        before(*args)
        raise FULL

    return failing


@pytest.mark.parametrize("call", [0, 1, 2, 3, 50, 51])
@pytest.mark.parametrize("step", ["rename", "bytes", "index"])
def test_full_disk(tmp_path, models, undisturbed, monkeypatch, step, call):
    """A clear error whichever write fails, nothing torn, and the next run computes what is missing."""

    def half(path, data):
        Path(path).write_bytes(data[: len(data) // 2])

    def half_a_line(store, data):
        with store._index.open("ab") as file:
            file.write(data[: len(data) // 2])

    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(os, "replace", fail_from(call, os.replace))
        if step == "bytes":
            patch.setattr(llm_dit.core.files, "_write_new", fail_from(call, llm_dit.core.files._write_new, half))
        if step == "index":
            patch.setattr(Store, "_append", fail_from(call, Store._append, half_a_line))
        with pytest.raises(StoreFullError, match=r"is full.*entries are whole"):
            run("texts", models["texts"], tmp_path)
    assert not [*tmp_path.rglob("*.partial")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = Store(tmp_path)
        assert all(store.get(record["key"]) for record in store)
    stored = len(store)
    assert stored == (call + 1 if step == "index" else call // 2), "an embedding and a record for each"
    assert f"{len(undisturbed['texts'].store) - stored} of" in repr(TEXTS.plan(models["texts"], store))
    run("texts", models["texts"], tmp_path)
    compare("texts", models["texts"], tmp_path, undisturbed["texts"])


def test_full_disk_as_safetensors_says_it(tmp_path):
    def refuse(path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(StoreFullError):
        Store(tmp_path).put(dict(n=1), files={"safetensors": refuse})


@pytest.mark.parametrize("phase, stored", [("planning", None), ("encoding", 0), ("drawing", 2)])
def test_an_interrupted_sweep_says_what_is_stored(tmp_path, models, monkeypatch, phase, stored):
    """One sentence and two frames whichever step Ctrl+C meets; running it again computes the rest."""
    sweep = Sweep(prompt="a red star", seed=range(4), num_inference_steps=1, height=32, width=32)
    pipe, calls = models["pictures"], iter(range(100))

    def interrupted(function):
        def call(*arguments, **options):
            if next(calls) == (stored or 0):
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        if phase == "planning":
            patch.setattr(pipe.encoder, "format", interrupted(pipe.encoder.format))
        if phase == "encoding":
            patch.setattr(pipe.encoder, "encode_alone", interrupted(pipe.encoder.encode_alone))
        if phase == "drawing":
            patch.setattr(ZImagePipeline, "__call__", interrupted(ZImagePipeline.__call__))
        with pytest.raises(KeyboardInterrupt) as caught:
            sweep.run(pipe, tmp_path, progress=False)
    assert type(caught.value) is SweepInterrupted and len(caught.traceback) == 2 and caught.value.__suppress_context__
    expected = (
        "before anything was computed"
        if stored is None
        else f"{stored} of 4 cells are stored in .*; run it again to go on"
    )
    assert re.search(expected, str(caught.value))
    assert sweep.run(pipe, tmp_path, progress=False).table.error.isna().all()


def test_columns_have_the_type_of_their_values(tmp_path, models):
    """Numbers can be rounded and correlated, and a group that is None is neither lost in groupby nor in a CSV file."""
    sweep = Sweep(
        prompt=["a red star", "a cat"],
        thinking=[None, "on a green field"],
        enable_thinking=True,
        hidden_layer=[-2, -3],
    )
    table = sweep.run(models["texts"], tmp_path, progress=False).table
    assert [pd.api.types.is_integer_dtype(table.hidden_layer), pd.api.types.is_bool_dtype(table.enable_thinking)] == [
        True,
        True,
    ]
    assert pd.api.types.is_string_dtype(table.prompt) and "hidden_layer" in table.corr(numeric_only=True)
    assert table.groupby("thinking").size().to_dict() == {"no thinking": 4, "on a green field": 4}
    table.to_csv(tmp_path / "table.csv", index=False)
    again = pd.read_csv(tmp_path / "table.csv")
    assert again.thinking.tolist() == table.thinking.tolist() and again.hidden_layer.dtype == table.hidden_layer.dtype


@pytest.mark.parametrize(
    "values",
    [
        np.arange(3),
        pd.Series(range(3)),
        pd.Index(range(3)),
        torch.arange(3),
        range(3),
        (np.int64(n) for n in range(3)),
        [0, np.uint8(1), torch.tensor(2)],
    ],
)
def test_seeds_from_the_scientific_stack(values):
    """Whoever makes the numbers, the cells are those of a list."""
    cells = Sweep(prompt="a", seed=values).cells()
    assert cells == Sweep(prompt="a", seed=[0, 1, 2]).cells() and {type(cell["seed"]) for cell in cells} == {int}


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a", "b"]),
        pd.Series(["a", "b"]),
        [np.str_("a"), np.array("b")],
        (text for text in "ab"),
        {"a": 1, "b": 2}.keys(),
    ],
)
def test_texts_from_the_scientific_stack(values):
    cells = Sweep(prompt=values, enable_thinking=np.bool_(True), strength=np.float32(0.5)).cells()
    assert [cell["prompt"] for cell in cells] == ["a", "b"] and {type(cell["prompt"]) for cell in cells} == {str}
    assert cells[0]["enable_thinking"] is True and type(cells[0]["strength"]) is float


def test_what_a_column_lacks_is_none():
    assert [cell["thinking"] for cell in Sweep(prompt="a", thinking=pd.Series([None, "b"])).cells()] == [None, "b"]


MESSAGES = [{"role": "system", "content": "neon"}, {"role": "user", "content": "a red star"}]


def test_messages_are_one_prompt(tmp_path, models):
    """A list of dictionaries is one conversation, a list of such lists an axis."""
    one, several = Sweep(prompt=MESSAGES), Sweep(prompt=[MESSAGES, MESSAGES[1:], "a cat"])
    assert len(one) == 1 and one.constants == {"prompt": Conversation.from_dicts(MESSAGES)} and len(several) == 3
    assert several.run(models["texts"], tmp_path, progress=False).table.error.isna().all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": 5},
        {"prompt": [b"a"]},
        {"prompt": {"a": 1}},
        {"prompt": None},
        {"prompt": {"a", "b"}},
        {"prompt": [["a"]]},
        {"seed": [0.5]},
        {"seed": [True]},
        {"seed": "1"},
        {"seed": np.zeros((2, 2), int)},
        {"seed": torch.tensor([1.0])},
        {"strength": "much"},
        {"strength": [float("nan")]},
        {"thinking": 1},
        {"enable_thinking": 1},
        {"image": 3},
        {"template": 5},
        {"seed": pd.DataFrame({"a": [1]})},
    ],
)
def test_a_value_of_another_kind_is_refused(wrong):
    for make in (lambda cell: Sweep(**cell), lambda cell: Sweep.of([cell])):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}[ =].*[a-z)'.]\\.?$") as caught:
            make({"prompt": "a", **wrong})
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def keys(model, folder, **arguments):
    return list(Sweep.of([{"prompt": "a star", "height": 32, "width": 32, **arguments}]).plan(model, folder).drawings)


@pytest.mark.parametrize(
    "same",
    [
        [
            {},
            {"negative_prompt": None},
            {"negative_prompt": ""},
            {"negative_prompt": "a cat"},
            {"guidance_scale": 0},
            {"guidance_scale": np.float32(0)},
            {"strength": 0.3},
            {"seed": None},
            {"seed": np.int64(0)},
        ],
        [{"num_inference_steps": None}, {}, {"guidance_scale": None}],
        [{"guidance_scale": 2}, {"guidance_scale": 2.0, "negative_prompt": ""}, {"guidance_scale": torch.tensor(2)}],
    ],
)
def test_one_image_has_one_key(tmp_path, models, same):
    found = [keys(models["pictures"], tmp_path, **arguments) for arguments in same]
    assert len(found[0]) == 1 and found == found[:1] * len(same)


def test_what_decides_pixels_is_in_the_key(tmp_path, models):
    """Arguments, the configuration of the parts, the scheduler, and torch's switches."""
    pipe = models["pictures"]
    changes = [
        {},
        {"seed": 1},
        {"height": 48},
        {"num_inference_steps": 2},
        {"guidance_scale": 2},
        {"guidance_scale": 2, "negative_prompt": "a cat"},
        {"hidden_layer": -3},
        {"system": "neon"},
    ]
    found = [*(keys(pipe, tmp_path, **change)[0] for change in changes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pipe.pipe.vae, "_internal_dict", type(pipe.pipe.vae.config)({**pipe.pipe.vae.config, "shift_factor": 0.5})
        )
        found += keys(pipe, tmp_path)
    scheduler = pipe.pipe.scheduler
    pipe.pipe.scheduler = type(scheduler).from_config(scheduler.config, shift=5.0)
    found += keys(pipe, tmp_path)
    pipe.pipe.scheduler = scheduler
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found += keys(pipe, tmp_path)
    finally:
        torch.set_float32_matmul_precision(usual)
    assert len(set(found)) == len(found) == 11 and keys(pipe, tmp_path) == found[:1]


def test_seeds_of_64_bits_are_shown(tmp_path, models):
    assert Sweep(prompt="a", seed=[2**64 - 1, 0]).run(
        models["texts"], tmp_path, progress=False
    ).table.seed.tolist() == [2**64 - 1, 0]


def test_warnings_of_a_sweep_name_the_line_that_runs_it(tmp_path):
    """A damaged store, a prompt that is cut off, and a model that nobody knows."""
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu", max_length=8)
    pipe.defaults = replace(pipe.defaults, why="it is a test")
    sweep = Sweep(prompt="a red star on a blue field under a green moon", height=32, width=32)
    with pytest.warns() as given:
        results = sweep.run(pipe, tmp_path, progress=False)
    results.store.path(results.table.key[0], "png").write_bytes(b"1")
    with pytest.warns() as later:
        sweep.run(pipe, tmp_path, progress=False)
    found = {one.category.__name__: one.filename for one in [*given, *later]}
    assert found == dict.fromkeys(("TruncationWarning", "UserWarning", "StoreWarning"), __file__)


if __name__ == "__main__":
    {"kill_often": kill_often, "run_once": run_once}[sys.argv[1]](*sys.argv[2:])


def test_a_negative_prompt_that_does_nothing_is_told_by_a_sweep(tmp_path):
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
    sweep = Sweep(prompt="a", negative_prompt="dog", height=32, width=32, num_inference_steps=1)
    with pytest.warns(UserWarning, match="negative_prompt has no effect at guidance_scale=0") as caught:
        made = sweep.run(pipe, tmp_path, progress=False)
    assert caught[0].filename == __file__
    for wrong in (
        lambda: made.image("x"),
        lambda: made.image(True),
        lambda: made.contact_sheet(columns=0),
        lambda: made.summary("prompt", metric=5),
        lambda: made.summary("prompt", repeets=3),
        lambda: made.compare("prompt", "a", metric="x"),
        lambda: sweep.run(pipe, 5),
        lambda: sweep.run(pipe, tmp_path, texts_per_call=2.5),
        lambda: sweep.run(pipe, tmp_path, pictures="yes"),
    ):
        with pytest.raises((TypeError, ValueError), match=r"expected|did you mean"):
            wrong()
    with pytest.raises(ValueError, match="'promt' is not an argument of this sweep; did you mean 'prompt'"):
        made.contact_sheet(promt="a")


def test_a_transparent_image_of_a_sweep_is_told_at_the_caller():
    with pytest.warns(UserWarning, match="transparent") as caught:
        Sweep(prompt="a", image=Image.new("RGBA", (32, 32)))
    assert caught[0].filename == __file__


def test_a_plan_table_has_numbers():
    """Row U7: its columns were objects."""
    from llm_dit.generation.memory import memory_plans, plan_table

    kinds = plan_table(memory_plans("tiny", torch.device("cpu"), torch.float32)).dtypes
    assert {str(kind) for name, kind in kinds.items() if name != "fits"} == {"float64"} and str(
        kinds["fits"]
    ) == "bool"
