"""One encoder in many threads, one pipeline in two, and a Playground during a sweep."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from llm_dit import GenerationInterrupted, Playground, Sweep, ZImagePipeline, ZImageTextEncoder
from llm_dit.views.widgets import LatestOnly

pytestmark = pytest.mark.side_by_side

THREADS = 8
QUICK = dict(num_inference_steps=2, height=64, width=64, progress=False)
TEXTS = [
    f"{n} {color} {shape}s, {size}"
    for n in range(3)
    for color in ("red", "blue", "green")
    for shape in ("star", "circle")
    for size in ("small", "very large and pale")
]


def in_threads(work, items, threads=THREADS):
    """Do something with each item, many at once; exceptions come out."""
    with ThreadPoolExecutor(threads) as pool:
        return [*pool.map(work, items)]


def worst(a, b):
    return max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "options",
    [dict(cache_bytes=0), dict(), dict(cache_bytes=2**16), dict(pack_weights=False, cache_bytes=0)],
    ids=["no cache", "cache", "small cache", "plain weights"],
)
def test_eight_threads_encode_what_one_does(options, tmp_path):
    """Single texts, batches and all layers bit for bit; incremental ones up to rounding."""

    def encoder(**more):
        return ZImageTextEncoder.from_pretrained("tiny", device="cpu", **options, **more)

    kinds = {
        "alone": lambda e, i: e.encode(TEXTS[i]).embeddings,
        "batch": lambda e, i: e.encode(TEXTS[i : i + 5] + TEXTS[: i // 4]).embeddings,
        "layers": lambda e, i: [
            x for layer in range(4) for x in e.encode(TEXTS[i], layers="all").layer(layer).embeddings
        ],
        "incremental": lambda e, i: e.encode(TEXTS[i], incremental=True).embeddings,
    }
    jobs = [(kind, i) for kind in kinds for i in range(len(TEXTS))]
    random.Random(0).shuffle(jobs)
    one, many = encoder(), encoder(cache_folder=str(tmp_path) if "cache_bytes" not in options else None)
    expected = [kinds[kind](one, i) for kind, i in jobs]
    found = in_threads(lambda job: kinds[job[0]](many, job[1]), jobs)
    for (kind, _), a, b in zip(jobs, found, expected):
        if kind in ("alone", "layers") or (kind == "batch" and options.get("cache_bytes") == 0):
            assert all(x.equal(y) for x, y in zip(a, b, strict=True)), kind
        else:
            assert worst(a, b) <= 1e-5, kind


def test_weights_leave_while_others_encode():
    """`free` in one thread takes nothing from under another, and the numbers stay."""
    encoder = ZImageTextEncoder.from_pretrained("tiny", device="cpu", cache_bytes=0)
    expected = [encoder.encode(text).embedding for text in TEXTS]

    def work(i):
        if i % 3 == 0:
            encoder.backend.free()
        return encoder.encode(TEXTS[i % len(TEXTS)]).embedding

    found = in_threads(work, range(120))
    assert all(a.equal(expected[i % len(TEXTS)]) for i, a in enumerate(found))
    encoder.backend.free()
    assert encoder.backend.model.device.type == "meta", "where nobody is at work, they leave"


def test_a_backend_with_other_options_shares_the_turns():
    encoder = ZImageTextEncoder.from_pretrained("tiny", device="cpu", cache_bytes=0)
    other = ZImageTextEncoder(encoder.backend.replace(max_length=100))
    expected = [encoder.encode(text).embedding for text in TEXTS]
    found = in_threads(lambda i: (encoder, other)[i % 2].encode(TEXTS[i % len(TEXTS)]).embedding, range(80))
    assert all(a.equal(expected[i % len(TEXTS)]) for i, a in enumerate(found))


@pytest.mark.parametrize("memory", ["fast", "balanced"])
def test_pictures_from_two_threads(memory):
    """They are those that are made alone, whatever else is made meanwhile.

    With a plan, too, that lets the encoder go between two pictures.
    """
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu", memory=memory, cache_bytes=0)
    calls = [
        dict(prompt=text, seed=i, **QUICK, **extra)
        for i, (text, extra) in enumerate(
            zip(
                TEXTS,
                [{}, dict(guidance_scale=1.5, negative_prompt="green"), dict(num_images=2), dict(template="neon")]
                * (2 if memory == "fast" else 1),
            )
        )
    ]
    expected = [pipe(**call) for call in calls]
    found = in_threads(lambda call: pipe(**call), calls, threads=2)
    for a, b in zip(found, expected):
        assert [x.tobytes() for x in a.images] == [x.tobytes() for x in b.images] and a.recipes == b.recipes


def test_cancelling_stops_the_running_call_only():
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
    expected, running, outcome = pipe("a red star", **QUICK).image.tobytes(), threading.Event(), {}

    def long():
        try:
            pipe("a blue circle", num_images=500, callback_on_step_end=lambda *_: running.set(), **QUICK)
        except GenerationInterrupted as e:
            outcome["long"] = e

    def waiting():
        outcome["waiting"] = pipe("a red star", **QUICK).image.tobytes()

    first, second = (threading.Thread(target=work, daemon=True) for work in (long, waiting))
    first.start()
    assert running.wait(30)
    second.start()
    time.sleep(0.1)
    assert "waiting" not in outcome, "it waits for its turn"
    pipe.cancel()
    for thread in (first, second):
        thread.join(60)
    assert isinstance(outcome["long"], GenerationInterrupted) and outcome["waiting"] == expected


def test_a_playground_during_a_sweep(tmp_path):
    """Both give what they give alone, and neither waits until the other is done."""
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
    sweep = Sweep(prompt=TEXTS[:12], seed=range(4), height=64, width=64, num_inference_steps=4)
    expected = sweep.run(pipe, tmp_path / "alone", progress=False)
    playground = Playground(pipe, "a red star")
    playground.painter.steps.value = 2
    playground.wait()
    seen, done = [], threading.Event()

    def play():
        time.sleep(0.1)
        for n in range(3):
            playground.editor.prompt.value = f"{n + 2} red stars"
            playground.generate()
            assert playground.wait(60)
            seen.append((not done.is_set(), playground.encoding.embedding.clone(), playground.generations[-1]))

    player = threading.Thread(target=play, daemon=True)
    player.start()
    found = sweep.run(pipe, tmp_path / "together", progress=False)
    done.set()
    player.join(60)
    assert len(seen) == 3 and seen[0][0], "the first picture was there before the sweep was done"
    for n, (_, encoding, (settings, made)) in enumerate(seen):
        again = pipe(
            f"{n + 2} red stars",
            seed=settings.seed,
            height=settings.height,
            width=settings.width,
            num_inference_steps=2,
            progress=False,
        )
        assert made.image.tobytes() == again.image.tobytes() and worst([encoding], [again.encoding.embedding]) <= 1e-5
    assert not playground.viewer.error.value
    playground.close()
    assert found.table.error.isna().all()
    for i in range(len(found)):
        assert found.image(i).tobytes() == expected.image(i).tobytes() and found.embedding(i).embedding.equal(
            expected.embedding(i).embedding
        )


def test_a_worker_outlives_an_exception(capsys):
    """What goes wrong in one request of a widget is shown, and the next request is done."""
    done = []

    def work(request, overtaken):
        if request == 1:
            raise MemoryError("out of memory")
        done.append(request)

    worker = LatestOnly(work, delay=0)
    for request in (1, 2):
        worker.submit(request)
        assert worker.wait(10)
    worker.close()
    assert done == [2] and "out of memory" in capsys.readouterr().err


def test_a_playground_says_what_it_did_not_expect(monkeypatch):
    """A card without memory, say: one line where the user looks, and the next picture is made."""
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
    playground = Playground(pipe, "a red star")
    playground.wait()
    forward, calls = pipe.pipe.transformer.forward, []

    def full(*args, **options):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 GiB.")
        return forward(*args, **options)

    monkeypatch.setattr(pipe.pipe.transformer, "forward", full)
    for pictures in (0, 1):
        playground.generate()
        assert playground.wait(60) and len(playground.generations) == pictures
        assert ("OutOfMemoryError: CUDA out of memory." in playground.viewer.error.value) == (pictures == 0)
    playground.close()
