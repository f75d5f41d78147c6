"""Damaged and missing files, weights that are no numbers, full and read-only disks, kill -9, Ctrl+C, too little
memory, a restarted kernel, a clock that goes backwards.

FAULTS (1) multiplies the number of random cases. The cache under kill -9 is in test_embedding_cache.py; the store
under kill -9, on a full disk and in two processes is in test_sweeps.py.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from llm_dit import (
    EmbeddingCache,
    EncodingOutput,
    Generation,
    Recipe,
    Store,
    Template,
    TemplateRegistry,
    ZImagePipeline,
    ZImageTextEncoder,
    load_template,
)
from llm_dit.encoding.backends import TransformersBackend
from llm_dit.encoding.embedding_cache import weights_fingerprint
from llm_dit.encoding.finite import NonFiniteError
from llm_dit.encoding.model_files import resolve_model
from llm_dit.encoding.weight_files import IncompleteWeightsError, check_component, safetensors_header
from llm_dit.studies.store import StoreFullError

pytestmark = pytest.mark.side_by_side

CASES = int(os.environ.get("FAULTS", 1))
TINY = Path(resolve_model("tiny"))
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
QUICK = dict(num_inference_steps=1, height=32, width=32, progress=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A copy of the embedded checkpoint to damage."""
    return shutil.copytree(TINY, tmp_path_factory.mktemp("damaged") / "model")


@pytest.fixture(scope="module")
def whole():
    """The undamaged pipeline, an embedding and a picture of it."""
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
    return pipe, pipe.encoder.encode("a red star").embedding, pipe("a red star", **QUICK).image.tobytes()


def result(folder, part):
    """What a model makes: an embedding of its text encoder, or a picture."""
    if part in ("text_encoder", "tokenizer"):
        return ZImageTextEncoder.from_pretrained(folder, device="cpu").encode("a red star").embedding.numpy().tobytes()
    return ZImagePipeline.from_pretrained(folder, device="cpu")("a red star", **QUICK).image.tobytes()


def assert_refused_or_equal(folder, file, whole, *names):
    """A damaged file makes one sentence that names it, or no difference at all. Returns whether it was refused."""
    part = file.parent.name
    try:
        made = result(folder, part)
    except (ValueError, FileNotFoundError) as e:
        said = str(e)
        assert "\n" not in said and len(said) < 700, said
        assert (str(file.parent) in said and file.name in said) or any(name in said for name in names), (
            f"{said} does not name {file}"
        )
        return True
    expected = whole[1].numpy().tobytes() if part in ("text_encoder", "tokenizer") else whole[2]
    assert made == expected, f"{file} is damaged, and something else was computed without a word"
    return False


def files_of_a_model():
    return sorted(
        file.relative_to(TINY) for file in TINY.rglob("*") if file.suffix in (".json", ".jinja", ".safetensors")
    )


@pytest.mark.parametrize("damage", ["removed", "cut", "emptied", "replaced"])
def test_each_file_of_a_model(model, whole, damage):
    refused = []
    for name in files_of_a_model():
        file, data = model / name, (model / name).read_bytes()
        if damage == "removed":
            file.unlink()
        else:
            file.write_bytes({"cut": data[: len(data) // 2], "emptied": b"", "replaced": b"[]"}[damage])
        try:
            if assert_refused_or_equal(model, file, whole):
                refused.append(str(name))
        finally:
            file.write_bytes(data)
    harmless = {str(name) for name in files_of_a_model()} - set(refused)
    assert harmless <= {
        "tokenizer/chat_template.jinja",
        *(["tokenizer/tokenizer_config.json"] if damage == "removed" else []),
    }, "nothing else can be done without"


def with_bit_flipped(data, position):
    return data[: position // 8] + bytes([data[position // 8] ^ 1 << position % 8]) + data[position // 8 + 1 :]


@pytest.mark.parametrize("part", WEIGHTS)
def test_cut_off_weights(model, part):
    file, choose = model / part / WEIGHTS[part], random.Random(0)
    data = file.read_bytes()
    try:
        for _ in range(30 * CASES):
            file.write_bytes(data[: choose.randrange(choose.choice([10, 5000, len(data)]))])
            with pytest.raises(IncompleteWeightsError, match=re.escape(str(file))):
                check_component(model / part)
        file.write_bytes(data + b"x")
        with pytest.raises(IncompleteWeightsError, match=re.escape(str(file))):
            check_component(model / part)
    finally:
        file.write_bytes(data)


@pytest.mark.parametrize("part", WEIGHTS)
def test_flipped_bits_of_a_header(model, whole, part):
    """Each bit of the length.

    And some of the header, most of which the file itself contradicts, the others make a tensor that the model does not
    know.
    """
    file, choose = model / part / WEIGHTS[part], random.Random(1)
    data = file.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    try:
        for position in range(64):
            file.write_bytes(with_bit_flipped(data, position))
            with pytest.raises(IncompleteWeightsError, match=re.escape(str(file))):
                check_component(model / part)
        for position in choose.sample(range(64, 8 * length), 25 * CASES):
            file.write_bytes(with_bit_flipped(data, position))
            refused += assert_refused_or_equal(model, file, whole, f"{part} of {model}")
    finally:
        file.write_bytes(data)
    print(f"\n{part}: {refused} of {25 * CASES} flipped bits of the header refused, the others make no difference")
    assert refused > 20 * CASES


def test_flipped_bits_behind_the_header_change_the_fingerprint(tmp_path):
    """The format has no checksum: such a file loads.

    What caches and stores go by, the fingerprint of the weights, tells that they are others.
    """
    file, choose = TINY / "text_encoder" / "model.safetensors", random.Random(2)
    data, tensors = file.read_bytes(), load_file(file)
    start = 8 + int.from_bytes(data[:8], "little")

    def fingerprint(tensors):
        module = torch.nn.Module()
        for name, x in tensors.items():
            module.register_buffer(name.replace(".", "_"), x.float())
        return weights_fingerprint(module)

    known = fingerprint(tensors)
    for _ in range(8 * CASES):
        (tmp_path / "flipped.safetensors").write_bytes(
            with_bit_flipped(data, choose.randrange(8 * start, 8 * len(data)))
        )
        safetensors_header(tmp_path / "flipped.safetensors")
        assert fingerprint(load_file(tmp_path / "flipped.safetensors")) != known


NOT_NUMBERS = [
    ("text_encoder", "embed_tokens.weight"),
    ("text_encoder", "layers.2.mlp.up_proj.weight"),
    ("text_encoder", "layers.0.self_attn.q_norm.weight"),
    ("transformer", "layers.1.attention.to_q.weight"),
    ("transformer", "cap_pad_token"),
    ("vae", "decoder.conv_in.weight"),
]


@pytest.mark.parametrize("part, name", NOT_NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(model, part, name, value):
    """Also where attention would make zeros of them, and wrong numbers without a sign."""
    file = model / part / WEIGHTS[part]
    data, tensors = file.read_bytes(), load_file(file)
    tensors[name].fill_(value)
    save_file(tensors, file, {"format": "pt"})
    try:
        with pytest.raises(NonFiniteError, match=re.escape(name)):
            ZImagePipeline.from_pretrained(model, device="cpu")("a red star", **QUICK)
    finally:
        file.write_bytes(data)


def test_numbers_that_outgrow_their_dtype(whole):
    """Nothing is wrong with the weights, and that is said."""
    pipe, _embedding, _ = whole
    large = pipe.encoder.encode("a red star").scale(float("inf"))
    with pytest.raises(NonFiniteError, match=r"prompt 0 has NaN.*scale"):
        pipe(large, **QUICK)
    backend = TransformersBackend.from_pretrained(
        "tiny", device="cpu", dtype="float16", pack_weights=False, cache_bytes=0
    )
    with torch.no_grad():
        backend.model.layers[1].mlp.down_proj.weight.sign_().mul_(60_000)
    with pytest.raises(
        NonFiniteError, match="no weight does, so numbers grew beyond float16: load the model in bfloat16 or float32"
    ):
        backend.encode(["<|im_start|>user\na red star<|im_end|>\n"])


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_of_another_dtype(model, whole, part):
    """float32, float16 and float64 give the same numbers as bfloat16, up to what float16 cannot hold.

    Integers, booleans and complex numbers are refused.
    """
    file, (_, embedding, picture) = model / part / WEIGHTS[part], whole
    data, tensors = file.read_bytes(), load_file(file)
    try:
        for dtype in (
            torch.float32,
            torch.float64,
            torch.float16,
            torch.int32,
            torch.uint8,
            torch.bool,
            torch.complex64,
        ):
            save_file({name: x.to(dtype) for name, x in tensors.items()}, file, {"format": "pt"})
            if not dtype.is_floating_point:
                with pytest.raises(
                    IncompleteWeightsError, match=f"{re.escape(str(file))} holds .* as .*; expected floating-point"
                ):
                    result(model, part)
            elif part == "text_encoder":
                made = ZImageTextEncoder.from_pretrained(model, device="cpu").encode("a red star").embedding
                assert (
                    made.dtype == torch.float32
                    and (made - embedding).abs().max()
                    <= (1e-5 if dtype == torch.float16 else 0) * embedding.abs().max()
                )
            else:
                assert result(model, part) == picture
    finally:
        file.write_bytes(data)


def test_weights_of_another_shape(model):
    for part, name in (
        ("text_encoder", "layers.0.mlp.up_proj.weight"),
        ("transformer", "layers.0.attention.to_q.weight"),
        ("vae", "decoder.conv_in.weight"),
    ):
        file = model / part / WEIGHTS[part]
        data, tensors = file.read_bytes(), load_file(file)
        save_file({**tensors, name: tensors[name][:-1].contiguous()}, file, {"format": "pt"})
        try:
            with pytest.raises(FileNotFoundError, match=rf"{part}.*{re.escape(name)}") as refused:
                result(model, part)
            assert "\n" not in str(refused.value)
        finally:
            file.write_bytes(data)


@pytest.fixture()
def disk(tmp_path):
    """A function that gives a disk of so many kilobytes, in memory; and one that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, folder], capture_output=True).returncode == 0

    def make(kilobytes):
        if not shutil.which("mount") or not mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs"):
            pytest.skip("only root may mount a disk")
        return folder

    yield make, lambda: mount("-o", "remount,ro")
    subprocess.run(["umount", "-l", folder], capture_output=True)


def writers(whole):
    """What writes files: for each a name, a small and a large content, how it is written, and how it is read."""
    pipe, _, _ = whole
    small, large = (pipe("a red star" + text, **QUICK) for text in ("", " and many more" * 30))
    noisy = Generation(
        [Image.frombytes("RGB", (128, 128), random.Random(0).randbytes(3 * 128 * 128))],
        large.recipes,
        large.encoding,
        {},
    )
    template = Template(name="small", system_prompt="Draw.")
    return [
        ("picture.png", small, noisy, lambda path, x: x.save(path), lambda path: Recipe.from_png(path).text),
        (
            "encoding.safetensors",
            small.encoding,
            large.encoding,
            lambda path, x: x.save(path),
            lambda path: EncodingOutput.load(path).texts,
        ),
        (
            "template.md",
            template,
            template.replace(system_prompt="Draw. " * 8000),
            lambda path, x: x.save(path),
            lambda path: load_template(path).system_prompt,
        ),
    ]


def test_a_full_disk(disk, whole, tmp_path):
    """What was there stays, nothing is left of what did not fit, and one sentence says so."""
    folder, files = disk[0](44), writers(whole)
    for name, small, large, write, read in files:
        write(folder / name, small)
        known = read(folder / name)
        with pytest.raises(OSError, match="No space left on device") as full:
            write(folder / name, large)
        assert "\n" not in str(full.value)
        assert read(folder / name) == known and [file.name for file in folder.iterdir()] == [name], (
            "the old file, and no other"
        )
        (folder / name).unlink()
        write(tmp_path / name, large)
        assert read(tmp_path / name) != known, "it was the disk that refused it"
    cache, key = EmbeddingCache(folder / "cache"), sha256(b"1").hexdigest()
    with pytest.warns(UserWarning, match="goes on in memory only.*No space left"):
        cache.put(key, torch.zeros(100, 1000))
    assert (
        cache.get(key) is not None
        and not [file for file in (folder / "cache").rglob("*") if file.is_file()]
        and "NOT WRITTEN TO" in repr(cache)
    )
    store = Store(folder / "store")
    kept = store.put({"seed": 1}, {"x": 1})
    with pytest.raises(StoreFullError, match=r"is full.*its 1 entries are whole"):
        store.put({"seed": 2}, files={"png": bytes(100_000)})
    assert Store(folder / "store").get(kept["key"]) == kept and len(Store(folder / "store")) == 1


def test_a_read_only_disk(disk, whole):
    """What is on it can be read: models, caches, stores, templates, pictures.

    What cannot be written is one sentence.
    """
    (make, lock), files = disk, writers(whole)
    folder = make(8000)
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(TINY / part, folder / "model" / part)
    for name, small, _, write, _ in files:
        write(folder / name, small)
    known, key = [read(folder / name) for name, *_, read in files], sha256(b"1").hexdigest()
    EmbeddingCache(folder / "cache").put(key, torch.ones(2, 2))
    kept = Store(folder / "store").put({"seed": 1}, {"x": 1})
    assert lock()
    for (name, _, large, write, read), was in zip(files, known):
        with pytest.raises(OSError, match="Read-only file system") as refused:
            write(folder / name, large)
        assert "\n" not in str(refused.value) and read(folder / name) == was
    assert (
        ZImageTextEncoder.from_pretrained(folder / "model", device="cpu")
        .encode("a red star")
        .embedding.equal(whole[1])
    )
    assert "template" in TemplateRegistry(folder)
    cache = EmbeddingCache(folder / "cache", max_bytes=0)
    assert cache.get(key).equal(torch.ones(2, 2))
    with pytest.warns(UserWarning, match="goes on in memory only.*Read-only"):
        cache.put(sha256(b"2").hexdigest(), torch.ones(2, 2))
    store = Store(folder / "store")
    assert store.get(kept["key"]) == kept and len(store.table()) == 1
    with pytest.raises(OSError, match="Read-only file system"):
        store.put({"seed": 2}, {"x": 1})


def write_in_turns(kind, folder):
    """Write one of two contents after another, until killed."""
    made = {
        "picture.png": [Generation([image], [recipe], None, {}) for image, recipe in zip(*pictures())],
        "encoding.safetensors": encodings(),
        "template.md": [Template(name="t", system_prompt=f"{word} " * 20_000) for word in ("Draw.", "Paint.")],
    }[kind]
    while True:
        for one in made:
            one.save(Path(folder) / kind)


def pictures():
    recipes = [
        Recipe(text=text, input_ids_hash="", seed=0, height=256, width=256, model="tiny", versions={})
        for text in ("one", "two")
    ]
    return [Image.frombytes("RGB", (256, 256), random.Random(i).randbytes(3 * 256 * 256)) for i in range(2)], recipes


def encodings():
    return [
        EncodingOutput(
            [torch.full((500, 1000), float(i))],
            [torch.zeros(500, dtype=torch.int64)],
            [["x"] * 500],
            [f"{i}"],
            [()],
            -2,
            [False],
        )
        for i in range(2)
    ]


def kill_writers(folder, kills):
    """Fork writers, kill each at a random moment or as soon as an unfinished file is seen, and look at what is there.

    Prints how many files were found, and how many kills left an unfinished one.
    """

    def unfinished():
        return [Path(folder, name) for name in os.listdir(folder) if name.endswith(".partial")]

    found = {}
    readers = {
        "picture.png": lambda path: (
            Recipe.from_png(path).text + str(Image.open(path).convert("RGB").getpixel((255, 255)))
        ),
        "encoding.safetensors": lambda path: (
            (x := EncodingOutput.load(path)).texts[0] + str(x.embedding.unique().tolist())
        ),
        "template.md": lambda path: load_template(path).system_prompt[:5],
    }
    for kind, read in readers.items():
        seen, torn = set(), 0
        for kill in range(int(kills)):
            child = os.fork()
            if not child:
                write_in_turns(kind, folder)
            time.sleep(0.005 + random.random() * 0.05)
            end = time.monotonic() + 0.5
            while kill % 2 and not unfinished() and time.monotonic() < end:
                pass
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            path, leftovers = Path(folder) / kind, unfinished()
            torn += bool(leftovers)
            for leftover in leftovers:
                leftover.unlink(missing_ok=True)
            if path.exists():
                seen.add(read(path))
        found[kind] = [len(seen), torn]
    print(json.dumps(found))


def child(*arguments, environment=None, **options):
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    return subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **quiet, **(environment or {})},
        timeout=300,
        **options,
    )


def test_killed_while_writing(tmp_path):
    """A picture, an encoding or a template is the one or the other, whatever moment its writer was killed at."""
    done = child("kill_writers", tmp_path, 12 * CASES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(
        f"\nof {12 * CASES} kills for each, these left an unfinished file: "
        f"{ {kind: torn for kind, (_, torn) in found.items()} }"
    )
    assert all(0 < seen <= 2 for seen, _ in found.values()) and sum(torn for _, torn in found.values()) > 0


def interrupt(folder, repeats):
    """Send SIGINT into each long operation.

    A picture and an embedding made afterwards, in the same process, are what they were. Prints how often each was
    stopped.
    """
    import threading

    from llm_dit import Sweep
    from llm_dit.cli.benchmark import both, random_decoder
    from llm_dit.cli.encoding_benchmark import mixed_lengths
    from llm_dit.tiny.training import train

    torch.set_num_threads(1)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell that started the tests in the background has it ignored
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
    known = pipe("a red star", **QUICK).image.tobytes(), pipe.encoder.encode_alone("a blue star").embedding
    texts = [f"{i} red stars above {j} green squares" for i in range(60) for j in range(40)]
    bench, counter = both(random_decoder("tiny")), iter(range(10**6))
    work = Path(folder) / "work"
    operations = {
        "encode": lambda: pipe.encoder.backend.replace(cache_bytes=0).encode(
            [str(text) for text in pipe.encoder.format(texts)]
        ),
        "pictures": lambda: pipe("a red star", num_images=200, **QUICK),
        "sweep of texts": lambda: Sweep(prompt=texts).run(
            pipe.encoder, Path(folder) / f"store {next(counter)}", progress=False
        ),
        "sweep of pictures": lambda: Sweep(prompt=texts, height=32, width=32, num_inference_steps=1).run(
            pipe, Path(folder) / f"store {next(counter)}", progress=False
        ),
        "training": lambda: train(work, ("vae",), vae=dict(pictures=32, steps=10_000)),
        "benchmark": lambda: mixed_lengths(*bench, repeats=10_000),
    }
    stopped = {}
    for name, operation in operations.items():
        for _ in range(int(repeats)):
            ended = threading.Event()

            def press():  # again each second, as a user would: Python drops an interrupt that comes in a destructor
                pause = 0.15 + random.random() * 0.3
                while not ended.wait(pause):
                    os.kill(os.getpid(), signal.SIGINT)
                    pause = 1

            presser = threading.Thread(target=press, daemon=True)
            presser.start()
            try:
                try:
                    operation()
                finally:
                    ended.set()
                    presser.join()
            except KeyboardInterrupt:
                stopped[name] = stopped.get(name, 0) + 1
            assert pipe("a red star", **QUICK).image.tobytes() == known[0], f"the picture after {name}"
            assert pipe.encoder.encode_alone("a blue star").embedding.equal(known[1])
            assert (
                pipe.encoder.backend.replace(cache_bytes=0)
                .encode(pipe.encoder.format("a blue star"))
                .embedding.equal(known[1])
            ), f"the embedding after {name}"
    for store in Path(folder).glob("store *"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            opened = Store(store)
            assert all(opened.get(record["key"]) for record in opened), "what a stopped sweep has stored is whole"
    print(json.dumps(stopped))


def test_interrupted_with_control_c(tmp_path):
    done = child("interrupt", tmp_path, 2 * CASES)
    assert done.returncode == 0, done.stderr[-3000:]
    stopped = json.loads(done.stdout.splitlines()[-1])
    print(f"\nstopped, of {2 * CASES} times each: {stopped}")
    assert stopped == dict.fromkeys(
        ["encode", "pictures", "sweep of texts", "sweep of pictures", "training", "benchmark"], 2 * CASES
    )


def megabytes_of_memory(kind):
    return int(re.search(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


#: One heap, and large tensors outside it: what glibc keeps in pieces, or reserves for another thread, counts as
#: address space, and the limit would be met at random.
ONE_HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"}


def starve(megabytes):
    """Encode more at once than the process may have memory for.

    Prints the warnings, and the greatest difference to what is encoded with enough; without a limit, how much memory
    small batches take, and how much one batch.
    """
    import resource

    from llm_dit import PromptTooLongError, SmallerBatchesWarning

    torch.set_num_threads(1)
    backend = TransformersBackend.from_pretrained(
        "tiny", device="cpu", cache_bytes=0, batch_tokens=10**7, max_length=10**6, share_prefixes=False
    )
    small = backend.replace(batch_tokens=1000)
    texts = [f"<|im_start|>user\n{i} " + "a red star " * 100 + "<|im_end|>\n" for i in range(200)]
    expected, megabytes = small.encode(texts), float(megabytes)
    start = megabytes_of_memory("VmSize")
    if not megabytes:
        peaks = [each.encode(texts) and megabytes_of_memory("VmPeak") - start for each in (small, backend)]
        return print(json.dumps(peaks))

    def allow(megabytes):
        resource.setrlimit(resource.RLIMIT_AS, (int((start + megabytes) * 2**20), resource.RLIM_INFINITY))

    allow(megabytes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = backend.encode(texts)
    said = [str(w.message) for w in caught if w.category is SmallerBatchesWarning]
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found.embeddings, expected.embeddings))
    del found, expected
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.encode(texts)  # planned smaller now
    try:
        backend.encode(["a red star " * 33_000])
    except PromptTooLongError as e:
        refused = str(e)
    same = backend.encode(texts[:1]).embedding.equal(small.encode(texts[:1]).embedding)
    print(json.dumps(dict(said=said, worst=worst, refused=refused, same=same)))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_too_little_memory():
    """With memory for half of a batch it is encoded in smaller ones, and that is said.

    A single prompt that does not fit is one sentence.
    """
    needed = child("starve", 0, environment=ONE_HEAP)
    assert needed.returncode == 0, needed.stderr[-3000:]
    small, whole = json.loads(needed.stdout)
    done = child("starve", (small + whole) / 2, environment=ONE_HEAP)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    print(
        f"\n{whole:.0f} MB needed at once, {small:.0f} in small batches\n"
        + "\n".join([*told["said"], told["refused"]])
    )
    assert told["said"] and all(
        re.search(
            r"too small for \d+ prompts of \d+ tokens at once; going on with batches of at most \d+ tokens", said
        )
        for said in told["said"]
    )
    assert (
        told["worst"] <= 1e-5
        and told["same"]
        and re.search(
            r"A prompt of 99001 tokens does not fit into the memory of cpu \(.*\); shorten it", told["refused"]
        )
    )


def test_a_clock_that_goes_backwards(tmp_path, monkeypatch):
    """Files from the future and a clock that was set back: everything is found again, and nothing that may be in use
    is removed.
    """
    cache, key, store = (
        EmbeddingCache(tmp_path / "cache", max_bytes=0),
        sha256(b"1").hexdigest(),
        Store(tmp_path / "store"),
    )
    cache.put(key, torch.ones(2, 2))
    first = store.put({"seed": 1}, {"x": 1}, files={"png": b"png"})
    unfinished = [
        tmp_path / "cache" / f"{key}.1.0123456789abcdef.partial",
        store.path(first["key"]).with_name(f"{first['key']}.1.01234567.partial"),
    ]
    for file in unfinished:
        file.touch()
    for file in (tmp_path / "cache").rglob("*"):
        os.utime(file, (time.time() + 10 * 86400,) * 2)
    for file in (tmp_path / "store").rglob("*"):
        os.utime(file, (time.time() + 10 * 86400,) * 2)
    now = time.time()
    ticks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(ticks))  # an hour back each time it is looked at
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert EmbeddingCache(tmp_path / "cache", max_bytes=0).get(key).equal(torch.ones(2, 2))
        again = Store(tmp_path / "store")
        assert again.get(first["key"], ("png",)) == first
        with again.working() as others:
            assert others == 0
        second = again.put({"seed": 2}, {"x": 2})
        store.refresh()
        assert store.get(second["key"]) == second and len(store.table()) == 2 == len(Store(tmp_path / "store"))
        store.rebuild()
    assert all(file.exists() for file in unfinished), "they could belong to a process that lives"


if __name__ == "__main__":
    {"kill_writers": kill_writers, "interrupt": interrupt, "starve": starve}[sys.argv[1]](*sys.argv[2:])
