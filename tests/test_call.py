"""What a call of the pipeline takes, what runs of it, and what its recipe says: schedulers, negatives, start images,
diffusers' names, warnings.
"""

import pickle
import warnings
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler as Euler
from PIL import Image
from safetensors.torch import save_file

from llm_dit import GenerationInterrupted, LatentPreview, Recipe, RecipeWarning, ZImagePipeline, format_prompt
from llm_dit.encoding.model_files import resolve_model
from llm_dit.generation.noise import draw_latents
from llm_dit.generation.schedule import linear_sigmas

pytestmark = [pytest.mark.side_by_side, pytest.mark.xdist_group("call")]

P = "a red circle on a blue background"
SIZE = dict(height=32, width=32)
QUICK = dict(num_inference_steps=2, progress=False, **SIZE)
FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


@pytest.fixture(scope="module")
def pipe():
    return ZImagePipeline.from_pretrained("tiny", device="cpu")


@pytest.fixture(autouse=True)
def same_scheduler(pipe):
    """Each test begins and ends with the scheduler of the folder."""
    usual = pipe.scheduler
    yield
    pipe.scheduler = usual


@pytest.fixture(scope="module")
def theirs():
    """diffusers' own pipeline on the same files."""
    reference = diffusers.ZImagePipeline.from_pretrained(resolve_model("tiny"), dtype=torch.float32)
    reference.set_progress_bar_config(disable=True)
    return reference


def pixels(made):
    return made.image.tobytes()


def again(pipe, recipe, **inputs):
    """The image of a recipe, without any difference to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecipeWarning)
        return pixels(pipe.reproduce(recipe, progress=False, **inputs))


# F8: the scheduler that is there


SCHEDULERS = {
    "shift 1": Euler(shift=1.0),
    "beta": Euler(shift=3.0, use_beta_sigmas=True),
    "karras": Euler(shift=3.0, use_karras_sigmas=True),
    "exponential": Euler(shift=3.0, use_exponential_sigmas=True),
    "dynamic": Euler(use_dynamic_shifting=True),
    "terminal": Euler(shift=3.0, shift_terminal=0.1),
    "stochastic": Euler(shift=3.0, stochastic_sampling=True),
    "LCM": diffusers.FlowMatchLCMScheduler(shift=3.0),
    "Heun": diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
    "UniPC": diffusers.UniPCMultistepScheduler(**FLOW),
    "DPM++": diffusers.DPMSolverMultistepScheduler(**FLOW),
    "SDE DPM++": diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **FLOW),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_scheduler_that_is_there_runs(pipe, name):
    options = {**QUICK, "num_inference_steps": 4}
    usual = pipe(P, **options)
    pipe.pipe.scheduler = SCHEDULERS[name]
    first, second = pipe(P, **options), pipe(P, **options)
    assert pixels(first) == pixels(second) != pixels(usual), (
        "the same seed is the same image, noise at each step included"
    )
    recipe = first.recipe
    assert recipe.scheduler["class"] == type(SCHEDULERS[name]).__name__ and recipe != usual.recipe
    assert Recipe.from_json(recipe.to_json()) == recipe and again(pipe, recipe) == pixels(first)
    pipe.scheduler = Euler(shift=3.0)
    with pytest.warns(RecipeWarning, match="scheduler"):
        pipe.reproduce(recipe, progress=False)


@pytest.mark.parametrize("name", ["beta", "karras", "exponential", "dynamic", "terminal", "shift 1"])
def test_spacings_equal_diffusers(pipe, theirs, name):
    pipe.scheduler = theirs.scheduler = SCHEDULERS[name]
    ours = pipe(P, **QUICK)
    options = dict(num_inference_steps=2, guidance_scale=0.0, latents=draw_latents([0], 32, 32), **SIZE)
    assert pixels(ours) == theirs(prompt_embeds=ours.encoding.embeddings, **options).images[0].tobytes()


def test_set_shift_acts_and_is_recorded(pipe):
    pipe.scheduler = Euler(shift=3.0)
    before = pipe(P, **QUICK)
    pipe.scheduler.set_shift(1.0)
    after = pipe(P, **QUICK)
    assert pixels(after) != pixels(before)
    assert (before.recipe.shift, after.recipe.shift, after.recipe.scheduler["shift"]) == (3.0, 1.0, 1.0)
    assert pipe.recipe_for(after.encoding, num_inference_steps=2, **SIZE) == after.recipe


def test_a_second_order_scheduler_counts_its_evaluations(pipe):
    pipe.scheduler, seen = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0), []
    preview = LatentPreview(pipe)

    def look(theirs, step, timestep, tensors):
        seen.append((step, theirs.num_timesteps, preview(theirs, step, timestep, tensors)))

    made = pipe(P, **{**QUICK, "num_inference_steps": 4}, callback_on_step_end=look)
    assert [step for step, *_ in seen] == list(range(7)) and {total for _, total, _ in seen} == {7}
    assert made.recipe.num_inference_steps == 4 and set(made.timings) == {"encode", "denoise", "decode"}


@pytest.mark.parametrize(
    "wrong",
    [
        diffusers.DDIMScheduler(),
        diffusers.EulerDiscreteScheduler(),
        diffusers.PNDMScheduler(),
        diffusers.LCMScheduler(),
        diffusers.UniPCMultistepScheduler(),
        diffusers.DPMSolverMultistepScheduler(),
        Euler(shift=3.0, invert_sigmas=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_scheduler_that_cannot_run_is_refused_before_any_work(pipe, wrong, monkeypatch):
    monkeypatch.setattr(pipe.encoder.backend, "encode", lambda *args, **options: pytest.fail("something was encoded"))
    usual = pipe.scheduler
    with pytest.raises(ValueError, match=type(wrong).__name__):
        pipe.scheduler = wrong
    assert pipe.scheduler is usual
    pipe.pipe.scheduler = wrong
    with pytest.raises(ValueError, match=type(wrong).__name__) as refused:
        pipe(P, **QUICK)
    assert "\n" not in str(refused.value)


def test_a_scheduler_of_a_start_image_is_refused_if_it_cannot(pipe):
    start = Image.new("RGB", (32, 32), "red")
    for name in ("Heun", "UniPC"):
        pipe.scheduler = SCHEDULERS[name]
        with pytest.raises(ValueError, match="image"):
            pipe(P, image=start, **QUICK)
    pipe.scheduler = SCHEDULERS["LCM"]
    made = pipe(P, image=start, **QUICK)
    assert again(pipe, made.recipe, image=start) == pixels(made)


def test_another_process_gets_the_scheduler(pipe):
    pipe.scheduler = Euler(shift=3.0, use_beta_sigmas=True)
    pipe.scheduler.set_shift(2.0)
    copied = pickle.loads(pickle.dumps(pipe))
    assert copied(P, **QUICK).recipe == pipe(P, **QUICK).recipe


def test_noise_at_each_step_does_not_touch_the_global_generator(pipe):
    pipe.scheduler = SCHEDULERS["LCM"]
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    single = [pipe(P, seed=seed, **QUICK) for seed in (0, 1)]
    assert torch.randn(3).equal(expected)
    both = pipe(P, num_images=2, batch_size=2, **QUICK)
    for alone, image in zip(single, both.images):
        assert np.abs(np.asarray(alone.image, int) - np.asarray(image, int)).max() <= 1, (
            "each image of a batch has its own noise"
        )


# F6, U6: negatives, and arguments that change nothing


def test_negatives(pipe):
    prompts = [P, "a green square"]
    made = pipe(prompts, negative_prompt=["circle", None], guidance_scale=2, **QUICK)
    assert [recipe.negative_prompt for recipe in made.recipes] == ["circle", ""]
    alone = pipe(P, negative_prompt=["circle"], guidance_scale=2, **QUICK)
    assert (
        pixels(alone)
        == made.images[0].tobytes()
        == pixels(pipe(P, negative_prompt="circle", guidance_scale=2, **QUICK))
    )
    assert Recipe.from_json(alone.recipe.to_json()) == alone.recipe and again(pipe, alone.recipe) == pixels(alone)
    nothing = pipe(P, negative_prompt=None, guidance_scale=2, **QUICK)
    assert nothing.recipe.negative_prompt == "" and pixels(nothing) == pixels(pipe(P, guidance_scale=2, **QUICK))


@pytest.mark.parametrize("wrong", [["a", "b", "c"], [], 5, ["a", 5], b"circle"], ids=repr)
def test_wrong_negatives(pipe, wrong):
    with pytest.raises((TypeError, ValueError), match="negative"):
        pipe([P, "a green square"], negative_prompt=wrong, guidance_scale=2, **QUICK)


def test_negatives_equal_diffusers(pipe, theirs):
    theirs.scheduler = Euler(shift=3.0)
    for cfg in ({}, {"cfg_normalization": True}, {"cfg_normalization": 0.9}, {"cfg_truncation": 0.2}):
        ours = pipe(P, negative_prompt="circle", guidance_scale=2.0, **cfg, **QUICK)
        other = pipe.encoder.encode("circle").embeddings
        made = theirs(
            prompt_embeds=ours.encoding.embeddings,
            negative_prompt_embeds=other,
            guidance_scale=2.0,
            num_inference_steps=2,
            latents=draw_latents([0], 32, 32),
            **cfg,
            **SIZE,
        )
        assert pixels(ours) == made.images[0].tobytes() and again(pipe, ours.recipe) == pixels(ours)
        assert {name: getattr(ours.recipe, name) for name in cfg} == cfg


@pytest.mark.parametrize(
    "idle, named",
    [
        (dict(negative_prompt="green"), "negative_prompt.*guidance_scale"),
        (dict(cfg_normalization=True), "cfg_normalization.*guidance_scale"),
        (dict(cfg_truncation=0.5), "cfg_truncation.*guidance_scale"),
        (dict(strength=0.3), "strength.*image"),
        (dict(image=Image.new("RGB", (32, 32)), batch_size=2), "batch_size.*image"),
        (dict(latents=torch.zeros(1, 16, 4, 4), seed=5), "seed.*latents"),
        (dict(callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"]), "tensor_inputs.*callback_on_step_end"),
    ],
    ids=lambda case: ",".join(case) if isinstance(case, dict) else "",
)
def test_an_argument_without_effect_warns_at_the_callers_line(pipe, idle, named):
    with pytest.warns(UserWarning, match=named) as caught:
        pipe(P, **idle, **QUICK)
    assert {warning.filename for warning in caught} == {__file__}


def test_arguments_with_effect_do_not_warn(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(P, negative_prompt="green", guidance_scale=1.5, cfg_truncation=0.5, **QUICK)
        pipe(P, image=Image.new("RGB", (32, 32)), strength=0.5, **QUICK)


# F10: start images


def turned(folder, orientation=8):
    """A picture that a camera held on its side, as a file and as it is meant to be seen."""
    upright = Image.linear_gradient("L").resize((32, 64)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = upright.transpose(Image.Transpose.ROTATE_270)
    lying.save(folder / "turned.png", exif=exif)
    return folder / "turned.png", upright


def test_a_start_image_is_turned_first(pipe, tmp_path):
    file, upright = turned(tmp_path)
    plain = pipe(P, image=upright, num_inference_steps=2, progress=False)
    assert (plain.recipe.height, plain.recipe.width) == (64, 32)
    for given in (file, str(file), Image.open(file)):
        made = pipe(P, image=given, num_inference_steps=2, progress=False)
        assert pixels(made) == pixels(plain) and made.recipe == plain.recipe
        assert again(pipe, made.recipe, image=given) == pixels(plain)
        assert pipe.recipe_for(made.encoding, image=given, num_inference_steps=2) == plain.recipe


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "CMYK", "1", "I;16"])
def test_modes_of_a_start_image(pipe, mode):
    rgb = Image.linear_gradient("L").resize((32, 32))
    image = Image.fromarray(np.asarray(rgb, np.uint16) * 257) if mode == "I;16" else rgb.convert("RGB").convert(mode)
    made = pipe(P, image=image, **QUICK)
    assert again(pipe, made.recipe, image=image) == pixels(made)


def test_arrays_as_a_start_image(pipe):
    rgb = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    array = np.asarray(rgb)
    plain = pixels(pipe(P, image=rgb, **QUICK))
    for given in (array, array / 255.0, torch.from_numpy(array.copy()).permute(2, 0, 1)):
        assert pixels(pipe(P, image=given, **QUICK)) == plain
    for wrong in (array[None], array[..., :2], array * 2.0, "nowhere.png", 5):
        with pytest.raises((TypeError, ValueError, FileNotFoundError), match="image"):
            pipe(P, image=wrong, **QUICK)


# Values of the scientific stack


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor, np.array], ids=lambda kind: kind.__name__)
def test_whole_numbers_of_other_libraries(pipe, number):
    plain = pipe(P, seed=3, num_images=2, batch_size=2, hidden_layer=-2, num_inference_steps=2, progress=False, **SIZE)
    made = pipe(
        P,
        seed=number(3),
        num_images=number(2),
        batch_size=number(2),
        hidden_layer=-2,
        num_inference_steps=number(2),
        progress=False,
        height=number(32),
        width=number(32),
    )
    assert [image.tobytes() for image in made.images] == [
        image.tobytes() for image in plain.images
    ] and made.recipes == plain.recipes
    assert (
        type(made.recipes[0].seed) is type(made.recipes[0].height) is type(made.recipes[0].num_inference_steps) is int
    )


def test_floats_of_other_libraries(pipe):
    plain = pipe(P, guidance_scale=1.5, **QUICK)
    start = Image.new("RGB", (32, 32))
    for number in (np.float32, np.float64, torch.tensor):
        made = pipe(P, guidance_scale=number(1.5), **QUICK)
        assert made.recipe == plain.recipe and type(made.recipe.guidance_scale) is float
        assert type(pipe(P, image=start, strength=number(0.5), **QUICK).recipe.strength) is float


@pytest.mark.parametrize(
    "seeds", [[3, 4], (3, 4), range(3, 5), np.arange(3, 5), torch.arange(3, 5)], ids=lambda seeds: type(seeds).__name__
)
def test_lists_of_seeds(pipe, seeds):
    made = pipe(P, seed=seeds, **QUICK)
    assert [(recipe.seed, type(recipe.seed)) for recipe in made.recipes] == [(3, int), (4, int)]


@pytest.mark.parametrize(
    "name, value",
    [
        ("seed", True),
        ("seed", 1.5),
        ("seed", "3"),
        ("seed", 2**64),
        ("seed", [[1]]),
        ("num_images", True),
        ("num_images", 0),
        ("num_images", 1.0),
        ("num_inference_steps", True),
        ("num_inference_steps", 0),
        ("num_inference_steps", 2.0),
        ("guidance_scale", True),
        ("guidance_scale", "2"),
        ("guidance_scale", float("nan")),
        ("guidance_scale", -1),
        ("height", 33),
        ("height", "32"),
        ("width", True),
        ("batch_size", 0),
        ("batch_size", None),
        ("hidden_layer", "x"),
        ("cfg_truncation", 2),
        ("cfg_normalization", "yes"),
        ("sigmas", [0.5, 1]),
        ("sigmas", 0.5),
        ("output_type", "jpg"),
        ("output_type", ["np"]),
        ("callback_on_step_end", 5),
        ("callback_on_step_end_tensor_inputs", ["noise"]),
        ("callback_on_step_end_tensor_inputs", 5),
        ("generator", 5),
        ("generator", []),
        ("prompt_embeds", 5),
        ("latents", 5),
        ("latents", torch.zeros(1, 16, 5, 5)),
        ("latents", torch.full((1, 16, 4, 4), float("nan"))),
        ("latents", torch.zeros(1, 16, 4, 4, dtype=int)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_value_is_refused_before_any_work(pipe, name, value, monkeypatch):
    monkeypatch.setattr(pipe.encoder.backend, "encode", lambda *args, **options: pytest.fail("something was encoded"))
    prompt = {} if name == "prompt_embeds" else {"prompt": P}
    with pytest.raises((TypeError, ValueError), match=name) as refused:
        pipe(**{**prompt, **QUICK, name: value})
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


# F12: diffusers' names


def test_a_generator(pipe, theirs):
    theirs.scheduler = Euler(shift=3.0)

    def generator(seed=7):
        return torch.Generator().manual_seed(seed)

    single = pipe(P, generator=generator(), **QUICK)
    assert single.recipe == pipe(P, seed=7, **QUICK).recipe and again(pipe, single.recipe) == pixels(single)
    options = dict(prompt_embeds=single.encoding.embeddings, num_inference_steps=2, guidance_scale=0.0, **SIZE)
    assert pixels(single) == theirs(generator=generator(), **options).images[0].tobytes()
    two = pipe(P, generator=generator(), num_images=2, **QUICK)
    reference = theirs(generator=generator(), num_images_per_prompt=2, **options).images
    for ours, other in zip(two.images, reference):
        assert np.abs(np.asarray(ours, int) - np.asarray(other, int)).max() <= 1, "a batch rounds otherwise"
    assert two.recipes[0].latents_hash is None and two.recipes[1].latents_hash
    with pytest.raises(ValueError, match="latents"):
        pipe.reproduce(two.recipes[1], progress=False)
    noise = torch.randn(2, 16, 4, 4, generator=generator())
    assert (
        again(pipe, two.recipes[1], latents=noise[1:])
        == two.images[1].tobytes()
        == again(pipe, two.recipes[1], latents=noise[1])
    )


@pytest.mark.parametrize("prompts, each", [(1, 2), (2, 1), (2, 2)])
def test_a_list_of_generators(pipe, prompts, each):
    seeds = [5, 9, 2, 7][: prompts * each]
    made = pipe(
        [P, "a green square"][:prompts],
        num_images=each,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **QUICK,
    )
    assert [recipe.seed for recipe in made.recipes] == seeds and not any(
        recipe.latents_hash for recipe in made.recipes
    )
    assert again(pipe, made.recipes[-1]) == made.images[-1].tobytes()


def test_a_used_generator(pipe):
    used = torch.Generator().manual_seed(0)
    torch.randn(5, generator=used)
    made = pipe(P, generator=used, **QUICK)
    assert made.recipe.latents_hash and pixels(made) != pixels(pipe(P, **QUICK))
    with pytest.raises(TypeError, match=r"seed.*generator"):
        pipe(P, seed=3, generator=used, **QUICK)


def test_latents(pipe):
    plain, noise = pipe(P, **QUICK), draw_latents([0], 32, 32)
    before = noise.clone()
    made = pipe(P, latents=noise, **QUICK)
    assert pixels(made) == pixels(plain) and made.recipe.latents_hash and noise.equal(before)
    assert again(pipe, made.recipe, latents=noise) == pixels(made)
    with pytest.raises(ValueError, match="latents"):
        pipe.reproduce(made.recipe, latents=noise + 1, progress=False)
    half = noise.bfloat16()
    rounded = pipe(P, latents=half, **QUICK)
    assert again(pipe, rounded.recipe, latents=half) == pixels(rounded)
    for extra in (dict(generator=torch.Generator()), dict(image=Image.new("RGB", (32, 32)))):
        with pytest.raises(TypeError, match="latents"):
            pipe(P, latents=noise, **extra, **QUICK)


def test_num_images_per_prompt(pipe):
    made = pipe(P, num_images_per_prompt=2, **QUICK)
    assert made.recipes == pipe(P, num_images=2, **QUICK).recipes
    with pytest.raises(ValueError, match="num_images_per_prompt"):
        pipe(P, num_images=3, num_images_per_prompt=2, **QUICK)


def test_output_types(pipe, tmp_path):
    plain = pipe(P, num_images=2, **QUICK)
    arrays, tensors, latents = (pipe(P, num_images=2, output_type=kind, **QUICK) for kind in ("np", "pt", "latent"))
    assert (
        arrays.images.shape == (2, 32, 32, 3)
        and tensors.images.shape == (2, 3, 32, 32)
        and latents.images.shape == (2, 16, 4, 4)
    )
    as_pixels = (arrays.images * 255).round().astype(np.uint8)
    assert all(Image.fromarray(x).tobytes() == image.tobytes() for x, image in zip(as_pixels, plain.images))
    assert torch.equal(tensors.images.permute(0, 2, 3, 1), torch.from_numpy(arrays.images))
    for made in (arrays, tensors, latents):
        assert made.recipes == plain.recipes and repr(made).startswith("Generation(2 ×")
        assert made._repr_png_() is None, "a notebook shows the repr"
        with pytest.raises(ValueError, match="output_type"):
            made.save(tmp_path / "image.png")
    assert not list(tmp_path.iterdir())


def test_prompt_embeds(pipe):
    plain = pipe(P, **QUICK)
    x = plain.encoding.embedding
    made = pipe(prompt_embeds=[x], **QUICK)
    assert pixels(made) == pixels(plain) and made.recipe.from_embeddings and made.recipe.embedding_hash
    padded = torch.stack([torch.cat([x, torch.zeros(5, x.shape[1])])])
    mask = torch.tensor([[1] * len(x) + [0] * 5])
    for given in (mask, mask.bool(), mask.tolist()):
        assert pixels(pipe(prompt_embeds=padded, prompt_attention_mask=given, **QUICK)) == pixels(plain)
    for wrong in (mask[:, :3], mask * 0, torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="prompt_attention_mask"):
            pipe(prompt_embeds=padded, prompt_attention_mask=wrong, **QUICK)
    with pytest.raises(TypeError, match="prompt_embeds"):
        pipe(P, prompt_attention_mask=mask, **QUICK)
    with pytest.raises(TypeError, match="prompt_embeds"):
        pipe(P, prompt_embeds=[x], **QUICK)
    with pytest.raises(ValueError, match="numbers per token"):
        pipe(prompt_embeds=[torch.zeros(4, 7)], **QUICK)


def test_sigmas(pipe):
    assert pixels(pipe(P, sigmas=linear_sigmas(2), progress=False, **SIZE)) == pixels(pipe(P, **QUICK))
    made = pipe(P, sigmas=np.array([1.0, 0.4, 0.2]), progress=False, **SIZE)
    assert (
        made.recipe.sigmas == (1.0, 0.4, 0.2)
        and made.recipe.num_inference_steps == 3
        and again(pipe, made.recipe) == pixels(made)
    )
    pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    with pytest.raises(ValueError, match="sigmas"):
        pipe(P, sigmas=[1.0, 0.4], progress=False, **SIZE)


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("heigth", "'height'"),
        ("steps", "num_inference_steps"),
        ("clip_skip", "hidden_layer"),
        ("negative_prompts", "'negative_prompt'"),
        ("joint_attention_kwargs", "load_lora"),
        ("max_sequence_length", "max_length"),
        ("negative_prompt_embeds", "negative_prompt"),
        ("return_dict", "Generation"),
        ("cfg_scale", "guidance_scale"),
        ("sytem", "'system'"),
        ("nonsense", "expected one of"),
    ],
)
def test_unknown_names(pipe, name, remedy):
    with pytest.raises(TypeError, match=remedy) as refused:
        pipe(P, **{name: 4}, **QUICK)
    assert (
        name in str(refused.value)
        and "format()" not in str(refused.value)
        and "ZImageTextEncoder" not in str(refused.value)
    )


@pytest.mark.parametrize(
    "name",
    [
        "enable_model_cpu_offload",
        "enable_sequential_cpu_offload",
        "enable_vae_tiling",
        "load_lora_weights",
        "set_adapters",
        "fuse_lora",
        "set_progress_bar_config",
        "enable_xformers_memory_efficient_attention",
        "encode_prompt",
        "shceduler",
    ],
)
def test_methods_of_diffusers(pipe, name):
    with pytest.raises(AttributeError, match=name):
        getattr(pipe, name)
    assert not hasattr(pipe, name)


def test_parts(pipe):
    assert (pipe.transformer, pipe.vae) == (
        pipe.pipe.transformer,
        pipe.pipe.vae,
    ) and pipe.text_encoder is pipe.encoder.backend.model
    assert pipe.tokenizer.decode([1]) is not None
    for name in ("transformer", "vae", "text_encoder", "tokenizer"):
        with pytest.raises(AttributeError, match=f"from_pretrained.*{name}|{name}.*from_pretrained"):
            setattr(pipe, name, getattr(pipe, name))


def test_a_revision_of_a_model_that_is_here():
    with pytest.warns(UserWarning, match="revision='v1' has no effect") as caught:
        loaded = ZImagePipeline.from_pretrained("tiny", device="cpu", revision="v1")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert loaded(P, **QUICK).recipe.revision is None


def test_to_where_it_is(pipe):
    assert (
        pipe.to("cpu")
        is pipe.to(torch.device("cpu"))
        is pipe.to(torch.float32)
        is pipe.to("cpu:0", torch.float32)
        is pipe
    )
    assert pipe.to(device="cpu", dtype="float32") is pipe
    before, encoder = repr(pipe), pipe.encoder.backend
    for wrong in (
        ("nowhere",),
        ("meta",),
        (5,),
        (),
        ("cpu", "floaty"),
        (torch.int8,),
        *([] if torch.cuda.is_available() else [("cuda",)]),
    ):
        with pytest.raises((TypeError, ValueError)) as refused:
            pipe.to(*wrong)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 300
    assert repr(pipe) == before and pipe.encoder.backend is encoder


def test_to_another_dtype_is_loading_with_it(tmp_path):
    moved = ZImagePipeline.from_pretrained("tiny", device="cpu")
    loaded = ZImagePipeline.from_pretrained("tiny", device="cpu", dtype="bfloat16")
    encoder, float32, dim = moved.encoder, moved(P, **QUICK).images[0], moved.transformer.config.dim
    layer, lora = "layers.0.attention.to_q", tmp_path / "lora.safetensors"
    save_file({f"{layer}.lora_A.weight": torch.ones(2, dim), f"{layer}.lora_B.weight": torch.ones(dim, 2) / dim}, lora)
    for each in (moved, loaded):
        each.load_lora(lora, 0.5, "worn")
        each.scheduler = diffusers.FlowMatchHeunDiscreteScheduler.from_config(each.scheduler.config)
    assert moved.to(torch.bfloat16) is moved and moved.encoder is encoder and moved.loras == {"worn": 0.5}
    one, other = moved(P, **QUICK), loaded(P, **QUICK)
    assert (
        one.recipe == other.recipe
        and one.recipe.dtype == "bfloat16"
        and np.array_equal(one.images[0], other.images[0])
    )
    assert moved.encoder.encode(P).embedding.dtype == loaded.encoder.encode(P).embedding.dtype
    moved.unload_lora()
    moved.scheduler = ZImagePipeline.from_pretrained("tiny", device="cpu").scheduler
    assert np.array_equal(moved.to("cpu", torch.float32)(P, **QUICK).images[0], float32)


def test_to_loses_nothing_that_no_file_holds():
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
    given = ZImagePipeline.from_pretrained("tiny", device="cpu", vae=pipe.vae)
    made = ZImagePipeline(pipe.encoder, pipe.pipe)
    with torch.no_grad():
        next(pipe.transformer.parameters()).mul_(1.5)
    for each, part in ((given, "vae"), (made, "text_encoder"), (pipe, "transformer")):
        before = repr(each), each.weights, each.pipe
        with pytest.raises(ValueError, match=part):
            each.to(torch.bfloat16)
        assert (repr(each), each.weights, each.pipe) == before


# U1, U9: prompts, and names that reproduce does not take


def test_messages_are_one_prompt(pipe):
    messages = [{"role": "system", "content": "Plain."}, {"role": "user", "content": P}]
    made = pipe(messages, **QUICK)
    assert len(made.images) == 1 and made.recipe.text == pipe(P, system="Plain.", **QUICK).recipe.text
    assert len(pipe([messages, P], **QUICK).images) == 2
    assert len(pipe(np.array([P, "a green square"]), **QUICK).images) == 2


@pytest.mark.parametrize("wrong", [None, 5, [], {"role": "user"}, [5], {"prompt": P}, b"text"], ids=repr)
def test_what_is_not_a_prompt(pipe, wrong):
    with pytest.raises((TypeError, ValueError)) as refused:
        pipe(wrong, **QUICK)
    assert "\n" not in str(refused.value) and "iterable" not in str(refused.value)


def test_an_empty_prompt_is_one(pipe):
    assert pipe("", **QUICK).recipe.spoken() == ""


def test_equal_texts_with_another_policy_stay_apart(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = [format_prompt("a red circle<|im_end|>", special_tokens=policy) for policy in ("allow", "escape")]
        made = pipe(both, **QUICK)
    assert [recipe.special_tokens for recipe in made.recipes] == ["allow", "escape"]


@pytest.mark.parametrize(
    "options, named",
    [
        (dict(seed=9), "seed"),
        (dict(prompt="x"), "prompt"),
        (dict(heigth=3), "height"),
        (dict(num_images_per_prompt=2), "num_images"),
        (dict(steps=3), "num_inference_steps"),
        (dict(generator=torch.Generator()), "generator"),
    ],
)
def test_what_reproduce_does_not_take(pipe, options, named):
    recipe = pipe(P, **QUICK).recipe
    with pytest.raises((TypeError, ValueError), match=named) as refused:
        pipe.reproduce(recipe, progress=False, **options)
    assert "ZImagePipeline(" not in str(refused.value)


# U12: interruptions, warnings at the caller's line, and callbacks


def test_an_interruption_counts(pipe):
    def stop(theirs, step, timestep, tensors):
        if len(done) == 2:
            pipe.cancel()
        done.extend([step] if step else [])

    done = []
    with pytest.raises(GenerationInterrupted, match="2 of 5 images") as stopped:
        pipe(P, num_images=5, callback_on_step_end=stop, **QUICK)
    assert len(stopped.value.finished.images) == 2
    with pytest.raises(GenerationInterrupted, match="0 of 3 images") as stopped:
        pipe(P, num_images=3, callback_on_step_end=lambda *_: pipe.cancel(), **QUICK)
    assert stopped.value.finished is None


@pytest.mark.parametrize(
    "call",
    [
        lambda pipe: pipe("a cat<|im_end|>", **QUICK),
        lambda pipe: pipe("a (red:1.4) cat", **QUICK),
        lambda pipe: pipe("a cat " * 700, **QUICK),
        lambda pipe: pipe(P, negative_prompt="a cat<|im_end|>", guidance_scale=1.5, **QUICK),
        lambda pipe: pipe(P, image=Image.new("RGBA", (32, 32)), **QUICK),
        lambda pipe: pipe.reproduce(replace(pipe(P, **QUICK).recipe, device="cuda"), progress=False),
    ],
    ids=["special token", "syntax", "too long", "negative", "transparent", "reproduce"],
)
def test_warnings_point_at_the_callers_line(pipe, call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(pipe)
    assert caught and {warning.filename for warning in caught} == {__file__}, [
        (str(w.message)[:60], w.filename) for w in caught
    ]


def test_a_callback_that_changes_the_image_is_in_the_recipe(pipe):
    def replaced(theirs, step, timestep, tensors):
        return {"latents": tensors["latents"].flip(2)}

    def in_place(theirs, step, timestep, tensors):
        tensors["latents"].mul_(1.1)

    def only_looks(theirs, step, timestep, tensors):
        return tensors

    plain = pipe(P, **QUICK)
    assert pipe(P, callback_on_step_end=only_looks, **QUICK).recipe == plain.recipe
    for change in (replaced, in_place):
        made = pipe(P, callback_on_step_end=change, **QUICK)
        assert "callback_on_step_end" in str(made.recipe.history) and pixels(made) != pixels(plain)
        with pytest.warns(RecipeWarning, match="history"):
            pipe.reproduce(made.recipe, progress=False)
        assert again(pipe, made.recipe, callback_on_step_end=change) == pixels(made)


# What is shown is what runs: attention, compiled blocks and caches set by hand


def test_attention_by_hand(pipe):
    own = ZImagePipeline.from_pretrained("tiny", device="cpu")
    blocks = [module for module in own.transformer.modules() if hasattr(module, "processor")]
    blocks[-1].set_attention_backend("_native_math") if hasattr(blocks[-1], "set_attention_backend") else setattr(
        blocks[-1].processor, "_attention_backend", "_native_math"
    )
    made = own(P, **QUICK)
    assert (
        "_native_math" in own.attention_backend
        and "native" in own.attention_backend.split("+")
        and own.attention_backend in repr(own)
    )
    assert (
        made.recipe.attention_backend == own.attention_backend
        and Recipe.from_json(made.recipe.to_json()) == made.recipe
    )


def test_a_cache_by_hand_is_refused():
    cache_dit = pytest.importorskip("cache_dit")
    own = ZImagePipeline.from_pretrained("tiny", device="cpu")
    cache_dit.enable_cache(
        own.transformer, cache_config=cache_dit.DBCacheConfig(Fn_compute_blocks=1, Bn_compute_blocks=0)
    )
    with pytest.raises(ValueError, match="cache_threshold"):
        own(P, **QUICK)
    cache_dit.disable_cache(own.transformer)
    assert own(P, **QUICK).recipe.cache_threshold is None


def test_blocks_compiled_by_hand_are_in_the_recipe(pipe):
    own = ZImagePipeline.from_pretrained("tiny", device="cpu")
    own.transformer.compile_repeated_blocks(backend="eager")
    assert own(P, **QUICK).recipe.compile and "compiled" in repr(own) and not pipe(P, **QUICK).recipe.compile


def test_tiling_by_hand_is_in_the_recipe():
    own = ZImagePipeline.from_pretrained("tiny", device="cpu")
    own.vae.enable_tiling()
    own.vae.tile_latent_min_size = 2
    assert own(P, **QUICK).recipe.vae_tiling


def test_a_mask_has_two_values_and_padding_has_one(pipe):
    """Zeros after the tokens were read as tokens; any number counted as a token; float64 ended in torch's error."""
    x = pipe.encoder.encode(P).embedding
    with pytest.raises(
        ValueError, match=r"prompt_embeds\[0\] ends with a row of zeros, which is padding.*prompt_attention_mask"
    ):
        pipe(prompt_embeds=torch.nn.functional.pad(x, (0, 0, 0, 5))[None], **QUICK)
    for mask in ("x", np.full((1, len(x)), 0.5), np.full((1, len(x)), np.nan), [[7] * len(x)]):
        with pytest.raises((TypeError, ValueError), match="prompt_attention_mask"):
            pipe(prompt_embeds=x[None], prompt_attention_mask=mask, **QUICK)
    made = [pipe(prompt_embeds=each, **QUICK) for each in (x, x.double())]
    assert pixels(made[0]) == pixels(made[1])
    assert pixels(pipe(prompt_embeds=x[None], prompt_attention_mask=[torch.ones(len(x))], **QUICK)) == pixels(made[0])


@pytest.mark.parametrize(
    "callback, message",
    [
        (lambda: None, "does not take four arguments"),
        (lambda *all: 5, "returned int 5: expected None, or a dictionary"),
        (lambda *all: {"latent": torch.zeros(1)}, "returned 'latent', which nothing reads; did you mean 'latents'"),
        (lambda *all: {"latents": None}, "returned latents=None: expected a tensor"),
    ],
)
def test_what_a_callback_may_return(pipe, callback, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pipe(P, callback_on_step_end=callback, **QUICK)


@pytest.mark.parametrize(
    "name, values", [("seed", {0, 1}), ("negative_prompt", {"a"}), ("sigmas", {1.0, 0.5}), ("template", {"default"})]
)
def test_a_set_has_no_order(pipe, name, values):
    with pytest.raises(TypeError, match=f"{name} is a set, which has no order"):
        pipe(P, **{**QUICK, name: values})


def test_steps_that_a_scheduler_has_not(pipe):
    """The check of the scheduler itself took as many steps."""
    with pytest.raises(ValueError, match="num_inference_steps=10000000: expected at most 1000"):
        pipe(P, **{**QUICK, "num_inference_steps": 10**7})


def test_recipe_for_takes_what_a_call_takes(pipe):
    """NumPy's numbers were refused, and what has no effect was dropped in silence."""
    encoding = pipe.encoder.encode(P)
    made = pipe.recipe_for(encoding, seed=np.int64(3), guidance_scale=np.float32(1.5), num_inference_steps=np.int64(4))
    assert (made.seed, made.guidance_scale, made.num_inference_steps) == (3, 1.5, 4) and type(made.seed) is int
    for idle in (dict(negative_prompt="a dog"), dict(strength=0.3)):
        with pytest.warns(UserWarning, match="has no effect") as caught:
            pipe.recipe_for(encoding, **idle)
        assert caught[0].filename == __file__
    with pytest.raises(TypeError, match="encoding is str 'x': expected an EncodingOutput"):
        pipe.recipe_for("x")


@pytest.mark.parametrize(
    "name, instead",
    [
        ("scheduler", "pipe.scheduler"),
        ("sampler", "pipe.scheduler"),
        ("device", "from_pretrained"),
        ("lora", "load_lora"),
        ("init_image", "image="),
        ("mask_image", "inpainting"),
    ],
)
def test_names_that_belong_elsewhere(pipe, name, instead):
    with pytest.raises(TypeError, match=f"takes no '{name}': .*{instead}"):
        pipe(P, **{name: 1}, **QUICK)
