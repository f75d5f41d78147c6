"""The Playground keeps its seed, and saves templates without taking a name, a file or a registry away."""

import threading
import warnings

import pytest

from llm_dit import Playground, TemplateRegistry, ZImagePipeline, ZImageTextEncoder
from llm_dit.prompts.template_files import Template

pytestmark = pytest.mark.side_by_side


@pytest.fixture(scope="module")
def encoder():
    return ZImageTextEncoder.from_pretrained("tiny", device="cpu")


@pytest.fixture()
def playground(encoder, tmp_path):
    looks = tmp_path / "looks"
    looks.mkdir()
    Template(name="plain", system_prompt="Draw.").save(looks / "plain.md")
    made = Playground(encoder, registry=TemplateRegistry(looks), save_folder=tmp_path / "mine" / "deep")
    yield made
    made.close()


def state(playground, folder):
    files = {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    return (
        files,
        playground.editor.registry,
        playground.editor.template.options,
        dict(playground.editor.registry),
        dict(playground.editor.registry.errors),
    )


def error(playground):
    return playground.viewer.error.value


def save(playground, name, text="Draw one shape.", button="save"):
    playground.editor.system.value = text
    if playground.editor.save_name.value != name:
        playground.editor.save_name.value = name
    getattr(playground.editor, button).click()


def test_the_seed_stays_until_a_new_one_is_wanted():
    pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
    playground = Playground(pipe)
    painter = playground.painter
    painter.width.value = painter.height.value = 64
    painter.steps.value = 1
    try:
        for prompt in ("a red circle", "a blue circle"):
            playground.editor.prompt.value = prompt
            painter.generate.click()
            assert playground.wait()
        seeds = [made.recipe.seed for _, made in playground.generations]
        assert seeds == [0, 0] and painter.lock.value and "not the text alone" not in painter.compare.children[1].value
        painter.new_seed.click()
        new = painter.seed.value
        painter.generate.click()
        assert playground.wait() and playground.generations[-1][1].recipe.seed == new != 0
        assert "not the text alone" in painter.compare.children[1].value
    finally:
        playground.close()


def test_a_name_that_is_taken_is_asked_about(playground, tmp_path):
    before = state(playground, tmp_path)
    save(playground, "plain")
    assert "exists already" in error(playground) and state(playground, tmp_path) == before
    save(playground, "plain")
    assert "exists already" in error(playground) and state(playground, tmp_path) == before, (
        "pressing Save as twice is no consent"
    )
    save(playground, "plain", button="save_anyway")
    path = tmp_path / "mine/deep/plain.md"
    assert path.exists() and str(path) in playground.editor.saved.value and "plain" in playground.editor.saved.value
    assert playground.editor.registry["plain"].path == path and not error(playground)
    save(playground, "plain", "Draw two shapes.")
    assert "overwritten" in error(playground) and "one shape" in path.read_text()


def test_a_file_that_no_registry_lists_is_not_overwritten(playground, tmp_path):
    folder = tmp_path / "mine/deep"
    folder.mkdir(parents=True)
    (folder / "kept.md").write_text("no template at all")
    before = state(playground, tmp_path)
    save(playground, "kept")
    assert "kept.md" in error(playground) and state(playground, tmp_path) == before


@pytest.mark.parametrize("name", ["../outside", "a/b", "", "  ", "*", ".hidden", "x" * 300, "a\0b"])
def test_a_bad_name_is_reported_about_that_name(playground, tmp_path, name):
    before = state(playground, tmp_path)
    save(playground, name)
    assert error(playground) and "plain.md" not in error(playground) and state(playground, tmp_path) == before
    assert not playground.editor.saved.value


def test_a_text_that_no_template_may_hold(playground, tmp_path):
    before = state(playground, tmp_path)
    save(playground, "mine", "Draw <|im_end|> shapes.")
    assert (
        "im_end" in error(playground) and "plain.md" not in error(playground) and state(playground, tmp_path) == before
    )


@pytest.mark.parametrize("step", ["write", "read", "parse", "clash", "readme"])
@pytest.mark.parametrize("overwritten", [False, True])
def test_a_failed_save_leaves_everything_as_it_was(playground, tmp_path, monkeypatch, step, overwritten):
    """Each step of saving fails in turn; files, folders and registry are the ones before."""
    from llm_dit.views import playground_model as module

    folder, name = tmp_path / "mine/deep", "readme" if step == "readme" else "new"
    if overwritten or step == "clash":
        folder.mkdir(parents=True)
    if overwritten:
        Template(name=name, system_prompt="Before.").save(folder / f"{name}.md")
    if step == "clash":
        Template(name=name, system_prompt="Another file of this name.").save(folder / "other.md")
    before = state(playground, tmp_path)

    def fail(*_, **__):
        raise OSError("the disk is full")

    if step == "write":
        monkeypatch.setattr("llm_dit.prompts.template_files.write_file", fail)
    if step == "read":
        monkeypatch.setattr(module, "TemplateRegistry", fail)
    if step == "parse":
        monkeypatch.setattr("llm_dit.prompts.templates._find", fail)
    save(playground, name)
    if overwritten:
        assert ("exists already" if step != "readme" else "reserved") in error(playground)
        save(playground, name, button="save_anyway")
    assert error(playground) and not playground.editor.saved.value
    assert state(playground, tmp_path) == before


def test_warnings_about_a_prompt_are_shown_as_text(playground):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        playground.editor.prompt.value = "a red circle<|im_end|>"
        assert playground.wait()
    assert "im_end" in playground.viewer.notice.value and "<|im_end|>" not in playground.viewer.notice.value
    playground.editor.prompt.value = "a red circle"
    assert playground.wait() and playground.viewer.notice.value == ""


def test_a_prompt_that_is_no_text_is_refused(encoder):
    for wrong in ([{"role": "user", "content": "a cat"}], None, 5):
        with pytest.raises(TypeError, match="expected text"):
            Playground(encoder, wrong)


def test_fields_name_the_parameters_of_the_api(playground):
    p, e, v = playground.painter, playground.editor, playground.viewer
    assert [widget.tooltip for widget in (p.steps, p.seed, e.system, e.assistant, v.layer)] == [
        "num_inference_steps",
        "seed",
        "system",
        "assistant",
        "hidden_layer",
    ]


@pytest.mark.parametrize("name", ["README", "CON", "nul.txt", "aux", "a.", "..", "x" * 300])
def test_a_name_that_no_file_can_have_everywhere(playground, tmp_path, name):
    before = state(playground, tmp_path)
    playground.editor.save_name.value = name
    with pytest.raises(ValueError, match=r"choose (another|a shorter)"):
        playground.save()
    assert state(playground, tmp_path) == before


def test_one_name_in_two_spellings_is_taken(playground):
    """A disk that does not tell case, or a composed letter from its parts, would lose the first one."""
    playground.editor.save_name.value = "caf\u00e9"
    playground.save()
    for same in ("Caf\u00e9", "cafe\u0301"):
        playground.editor.save_name.value = same
        with pytest.raises(ValueError, match="exists already"):
            playground.save()


def test_what_the_playground_is_made_of_is_checked(encoder):
    for wrong in (
        dict(source="tiny"),
        dict(source=None),
        dict(source=encoder, registry="x"),
        dict(source=encoder, save_folder=5),
        dict(source=encoder, delay="x"),
    ):
        with pytest.raises(TypeError, match=f"{list(wrong)[-1]} is .*expected"):
            Playground(**wrong)


def test_a_refused_save_is_still_to_be_read_when_an_earlier_encode_ends(playground, monkeypatch):
    """The sentence went away as soon as what had been typed before was encoded, and moved the button under it."""
    model, begun, go = playground._controller.model, threading.Event(), threading.Event()
    encode = model.encode

    def late(settings):
        begun.set()
        assert go.wait(60)
        return encode(settings)

    save(playground, "plain")
    playground.editor.save_name.value = "plain"
    with monkeypatch.context() as patch:
        patch.setattr(model, "encode", late)
        playground.editor.prompt.value = "a star"
        assert begun.wait(60)
        playground.editor.save.click()
        assert "exists already" in error(playground)
        go.set()
        assert playground.wait() and "exists already" in error(playground)
    playground.editor.prompt.value = "two stars"
    assert playground.wait() and not error(playground)
