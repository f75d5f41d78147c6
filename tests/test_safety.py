"""Nothing runs that comes with a file, nothing leaves its folder, no text becomes markup, and nobody asks the network
unasked.
"""

import ast
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import warnings
from html.parser import HTMLParser
from pathlib import Path

import ipywidgets
import pytest
import torch
from PIL import Image

from llm_dit import (
    CompareSlider,
    Conversation,
    EncodingOutput,
    LayerExplorer,
    MemoryPlan,
    Playground,
    Store,
    Template,
    TemplateBrowser,
    TemplateError,
    TemplateRegistry,
    TokenStrip,
    TransformersBackend,
    ZImagePipeline,
    ZImageTextEncoder,
    format_prompt,
    load_template,
)
from llm_dit.encoding.model_files import resolve_model
from llm_dit.encoding.tokens import TokenSpan
from llm_dit.prompts.formatter import FormattedPrompt, Span
from llm_dit.prompts.template_lint import lint
from llm_dit.views.playground_model import moved_strip, text_difference

pytestmark = pytest.mark.side_by_side

ROOT = Path(__file__).parent.parent
SOURCES = [*sorted((ROOT / "llm_dit").rglob("*.py")), *sorted((ROOT / "tools").glob("*.py"))]


def calls(source):
    """All calls of a file: the dotted name, the module that its first part stands for, and keyword arguments."""
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, node


# ---- no pickle


def test_no_loader_reads_pickles():
    """No module unpickles, evaluates text, or reads YAML by another than the safe loader.

    Torch.load is for the training's own states, and reads tensors only.
    """
    for source in SOURCES:
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(source.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pickletools"}, (
            source.name
        )
        for name, options, _ in calls(source):
            assert name not in (
                "eval",
                "exec",
                "compile",
                "__import__",
                "yaml.load",
                "yaml.unsafe_load",
                "yaml.full_load",
                "pd.read_pickle",
                "pandas.read_pickle",
            ), f"{source.name} calls {name}"
            assert "allow_pickle" not in options and name not in ("np.load", "numpy.load"), (
                f"{source.name} calls {name}"
            )
            if name == "torch.load":
                assert source.parent.name == "tiny" and options.get("weights_only") == "True"
            if name == "yaml.scan":
                assert options["Loader"] == "_safe_loader()"


# ---- one room opens

#: Where files are opened beside `core/opening.py`, and why no stranger's file is believed there.
OPENED = {
    "cli/images.py": "an image that it has just made",
    "cli/options.py": "a source file of this package",
    "core/files.py": "what it writes itself",
    "encoding/embedding_files.py": "safetensors, once it is known to be a regular file",
    "encoding/stored_weights.py": "safetensors, after its header was checked",
    "encoding/tokenizing.py": "what a tokenizer in memory says of itself",
    "encoding/weight_files.py": "safetensors, after its header was read",
    "generation/lora_files.py": "safetensors, after its header was checked",
    "generation/provenance.py": "what it has just written",
    "prompts/template_lint.py": "the vocabulary that an installed package ships",
    "studies/identity.py": "weights that diffusers has just written",
    "studies/store.py": "the index, which is appended to and no link",
}
OPENERS = {"open", "os.open", "Image.open", "json.load", "json.loads", "yaml.load", "yaml.safe_load", "safe_open"}


def test_one_room_opens():
    """All other rooms open files through it, but for the training, which reads what it wrote."""
    found = {
        place(source)
        for source in sorted((ROOT / "llm_dit").rglob("*.py"))
        for name, _, _ in calls(source)
        if name in OPENERS or name.rpartition(".")[2] in ("read_text", "read_bytes")
    }
    assert {each for each in found if not each.startswith("tiny/")} == {*OPENED, "core/opening.py"}


def test_what_is_allocated_has_a_dtype():
    """Else it has the one that some library has set for the whole process at that moment."""
    makers = {f"torch.{name}" for name in ("randn", "rand", "zeros", "ones", "empty", "full", "linspace", "eye")}
    found = [
        f"{place(source)}: {ast.unparse(node)}"
        for source in sorted((ROOT / "llm_dit").rglob("*.py"))
        for name, options, node in calls(source)
        if name in makers and "dtype" not in options and source.parent.name != "tiny"
    ]
    assert not found


#: What reads no weights itself: tokenizers and configurations, and what leads to a loader that is looked at here.
DELEGATES = {
    f"{name}.from_pretrained"
    for name in (
        "AutoTokenizer",
        "AutoConfig",
        "AutoProcessor",
        "cls",
        "door",
        "ImagePipeline",
        "TextEncoder",
        "TransformersBackend",
        "ZImagePipeline",
        "ZImageTextEncoder",
        "llm_dit.ZImagePipeline",
    )
}


def place(source):
    """Return where a file is: `encoding/loading.py`."""
    return source.relative_to(source.parent.parent).as_posix()


def test_every_loader_asks_for_safetensors():
    """All but the training, which reads what it wrote."""
    found = [
        (place(source), name, options)
        for source in SOURCES
        for name, options, _ in calls(source)
        if name not in DELEGATES
        and name.split(".")[-1] in ("from_pretrained", "lora_state_dict", "load_lora_weights", "from_single_file")
    ]
    loaders = [(module, name) for module, name, _ in found if module.partition("/")[0] in ("encoding", "generation")]
    assert loaders == [
        ("encoding/loading.py", "loader.from_pretrained"),
        ("generation/loading.py", "pipeline.from_pretrained"),
        ("generation/lora.py", "pipe.load_lora_weights"),
        ("generation/model_parts.py", "kind.from_pretrained"),
        ("generation/model_parts.py", "kind.from_single_file"),
    ]
    other = [
        (module, name)
        for module, name, options in found
        if options.get("use_safetensors") != "True" and not module.startswith("tiny/")
    ]
    assert other == [
        ("cli/loading.py", "kind.from_pretrained"),
        ("generation/model_parts.py", "kind.from_single_file"),
    ], "one leads to our own doors, the other reads GGUF files alone"


class Payload:
    """What runs when a file is unpickled by a careless program."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def write_pickle(path, mark):
    path.write_bytes(pickle.dumps({"weight": Payload(mark)}))


def write_torch(path, mark):
    torch.save({"weight": Payload(mark)}, path)


def write_tensors(path, mark):
    torch.save({"weight": torch.zeros(1)}, path)  # harmless, and still no safetensors file


WRITERS = [write_pickle, write_torch, write_tensors]
PARTS = dict(
    text_encoder=("model.safetensors", "pytorch_model.bin"),
    transformer=("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    vae=("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
)


@pytest.fixture()
def model(tmp_path):
    """A copy of the embedded checkpoint."""
    return Path(shutil.copytree(resolve_model("tiny"), tmp_path / "model", ignore=shutil.ignore_patterns("training")))


@pytest.fixture(scope="module")
def pipe():
    return ZImagePipeline.from_pretrained("tiny", device="cpu")


def test_the_payload_would_run(tmp_path):
    write_pickle(tmp_path / "x", tmp_path / "ran")
    pickle.loads((tmp_path / "x").read_bytes())
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("part", PARTS)
def test_pickled_weights_are_refused(model, tmp_path, part, write):
    safe, pickled = PARTS[part]
    (model / part / safe).unlink()
    for name in (pickled, "model.pt", "weights.ckpt"):
        write(model / part / name, tmp_path / "ran")
    with pytest.raises(OSError, match=r"no file named|safetensors"):
        ZImagePipeline.from_pretrained(model, device="cpu")
    if part == "text_encoder":
        with pytest.raises(OSError, match=r"no file named|safetensors"):
            TransformersBackend.from_pretrained(model, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_pickle_called_safetensors_is_refused(model, tmp_path, part):
    write_torch(model / part / PARTS[part][0], tmp_path / "ran")
    with pytest.raises(OSError, match="no readable header"):
        ZImagePipeline.from_pretrained(model, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_cannot_name_a_pickle(model, tmp_path, kind):
    (model / "text_encoder/model.safetensors").unlink()
    write_torch(model / "text_encoder/shard.bin", tmp_path / "ran")
    (model / "text_encoder" / kind).write_text(
        json.dumps(dict(metadata={}, weight_map={"embed_tokens.weight": "shard.bin"}))
    )
    with pytest.raises(OSError):
        TransformersBackend.from_pretrained(model, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("place", [".", "text_encoder"])
def test_a_pickled_adapter_beside_a_text_encoder_is_not_read(model, tmp_path, place, write):
    """transformers loads an adapter (peft) that lies in a model's folder of its own accord."""
    change(
        model / place / "adapter_config.json",
        peft_type="LORA",
        r=1,
        target_modules=["q_proj"],
        base_model_name_or_path=str(model),
        task_type=None,
    )
    write(model / place / "adapter_model.bin", tmp_path / "ran")
    try:
        TransformersBackend.from_pretrained(model, device="cpu")
    except (OSError, ValueError):
        pass
    assert not (tmp_path / "ran").exists()


def test_pickles_beside_safetensors_are_not_looked_at(model, tmp_path):
    for part, (_, pickled) in PARTS.items():
        write_torch(model / part / pickled, tmp_path / "ran")
    assert ZImagePipeline.from_pretrained(model, device="cpu") and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("write", WRITERS)
def test_a_pickled_lora_is_refused(pipe, tmp_path, write):
    for name in ("lora.bin", "lora.pt", "lora.safetensors", "folder/pytorch_lora_weights.bin"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        write(file, tmp_path / "ran")
        with pytest.raises(ValueError, match="cannot be read as a LoRA"):
            pipe.load_lora(file.parent if "/" in name else file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("write", WRITERS)
def test_a_pickled_embedding_is_refused(tmp_path, write):
    write(tmp_path / "e.safetensors", tmp_path / "ran")
    with pytest.raises(Exception, match="header"):
        EncodingOutput.load(tmp_path / "e.safetensors")
    assert not (tmp_path / "ran").exists()


# ---- no code that comes with a model


def test_remote_code_is_off_where_nobody_asks_for_it():
    """The words stand in one module, and there the default is False and what the caller says is passed on."""
    found = {
        (source.name, options["trust_remote_code"])
        for source in SOURCES
        for _, options, _ in calls(source)
        if "trust_remote_code" in options
    }
    assert not found, "it comes from the caller's BackendConfig alone"
    assert {source.name for source in SOURCES if "trust_remote_code" in source.read_text()} <= {
        "_modidx.py",
        "protocols.py",
        "components.py",
        "loading.py",
    }
    from llm_dit import BackendConfig

    assert BackendConfig().trust_remote_code is False


@pytest.fixture()
def plain(model, tmp_path):
    """Text encoder and tokenizer in one folder, as a plain transformers model, with a module of code in it."""
    folder = Path(shutil.copytree(model / "text_encoder", tmp_path / "plain"))
    shutil.copytree(model / "tokenizer", folder, dirs_exist_ok=True)
    (folder / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import Qwen3Config, Qwen3Model, "
        f"PreTrainedTokenizerFast\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "class Config(Qwen3Config): pass\nclass Model(Qwen3Model): pass\nclass Tokenizer(PreTrainedTokenizerFast): "
        "pass\n"
    )
    return folder


def change(file, **fields):
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | fields))


@pytest.mark.parametrize("kind", ["config", "model", "tokenizer"])
def test_code_of_a_model_runs_only_where_the_caller_says_so(plain, tmp_path, kind):
    if kind == "tokenizer":
        change(
            plain / "tokenizer_config.json",
            tokenizer_class="Tokenizer",
            auto_map=dict(AutoTokenizer=["own.Tokenizer", "own.Tokenizer"]),
        )
    else:
        change(
            plain / "config.json",
            auto_map=dict(config=dict(AutoConfig="own.Config"), model=dict(AutoModel="own.Model"))[kind],
            **(dict(model_type="own") if kind == "config" else {}),
        )
    try:
        TransformersBackend.from_pretrained(plain, device="cpu")
    except ValueError as e:
        assert re.fullmatch(r".* comes with code of its own, .* trust_remote_code=True\.", str(e)), (
            e
        )  # or the model's known class is taken
    assert not (tmp_path / "ran").exists()
    try:
        TransformersBackend.from_pretrained(plain, device="cpu", trust_remote_code=True)
    except (ValueError, OSError, AttributeError):
        pass  # whether it works is not the question
    assert (tmp_path / "ran").exists(), "the code was there to be run"


@pytest.mark.parametrize("part", ["scheduler", "vae", "transformer"])
def test_code_named_by_a_pipeline_is_refused(model, tmp_path, part):
    for folder in (model, model / part):
        (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    change(model / "model_index.json", **{part: ["own", "Own"]})
    with pytest.raises(ValueError):
        ZImagePipeline.from_pretrained(model, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_chat_template_is_in_a_sandbox(model):
    (model / "tokenizer/chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    encoder = ZImageTextEncoder.from_pretrained(model, device="cpu", formatter="tokenizer")
    with pytest.raises(Exception, match="unsafe"):
        encoder.format("a cat")


# ---- folders

SECRET = "---\nname: secret\n---\nA secret look.\n"


@pytest.fixture()
def folders(tmp_path):
    """A folder with a template, and a secret one outside."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    (inside / "fine.md").write_text("---\nname: fine\n---\nA fine look.\n")
    (outside / "secret.md").write_text(SECRET)
    return inside, outside


@pytest.mark.parametrize(
    "make",
    [
        lambda inside, outside: (inside / "link.md").symlink_to(outside / "secret.md"),
        lambda inside, outside: (inside / "link.md").symlink_to("../outside/secret.md"),
        lambda inside, outside: (inside / "link").symlink_to(outside),
        lambda inside, outside: (inside / "link").symlink_to(inside.parent),
        lambda inside, outside: (inside / "link").symlink_to("/"),
        lambda inside, outside: ((inside / "b").symlink_to(outside), (inside / "link").symlink_to(inside / "b")),
    ],
    ids=["file", "relative", "folder", "parent", "root", "two links"],
)
def test_a_link_does_not_lead_out_of_a_template_folder(folders, make):
    make(*folders)
    registry = TemplateRegistry(folders[0])
    assert (
        [*registry] == ["fine"]
        and "link" in registry.errors
        and "leaves the template folder" in str(registry.errors["link"])
    )
    assert "secret look" not in registry._repr_html_()


@pytest.mark.parametrize(
    "name",
    [
        "../outside/secret",
        "..",
        "../outside/secret.md\0",
        "/etc/passwd",
        "fine/../../outside/secret",
        "~",
        "fine\0",
        "",
        "C:\\secret",
        "\\\\host\\secret",
    ],
)
def test_a_name_does_not_lead_out_of_a_template_folder(folders, name):
    registry = TemplateRegistry(folders[0])
    with pytest.raises(TemplateError):
        registry[name]
    with pytest.raises(TemplateError):
        Template(name="x").replace(name=name)


def test_saving_does_not_follow_links(folders, monkeypatch):
    """A link in the way is replaced, and what it leads to stays as it is.

    So does the file that an unfinished one might have been, if its name could be guessed.
    """
    inside, outside = folders
    (inside / "look.md").symlink_to(outside / "secret.md")
    with monkeypatch.context() as guessed:
        guessed.setattr("secrets.token_hex", lambda n: "0" * 2 * n)
        (inside / f"look.md.{os.getpid()}.{'0' * 16}.partial").symlink_to(outside / "secret.md")
        with pytest.raises(FileExistsError):
            Template(name="look", system_prompt="A look.").save(inside / "look.md")
    assert (outside / "secret.md").read_text() == SECRET
    Template(name="look", system_prompt="A look.").save(inside / "look.md")
    assert (
        (outside / "secret.md").read_text() == SECRET
        and not (inside / "look.md").is_symlink()
        and load_template(inside / "look.md").name == "look"
    )


def test_devices_and_pipes_are_no_templates(tmp_path):
    """Read as files, they would never end."""
    os.mkfifo(tmp_path / "pipe.md")
    for path in (tmp_path / "pipe.md", "/dev/zero", tmp_path):
        with pytest.raises(TemplateError, match="is no file"):
            load_template(path)
    assert len(TemplateRegistry(tmp_path)) == 0


@pytest.mark.parametrize("name", ["../look", "/look", "a/b", "..", "\0", "x" * 300])
def test_the_playground_saves_only_into_its_folder(pipe, folders, name):
    inside, _outside = folders
    playground = Playground(pipe.encoder, registry=TemplateRegistry(inside), save_folder=inside)
    before = {*inside.parent.rglob("*")}
    playground.editor.save_name.value = name
    with pytest.raises((ValueError, OSError)):
        playground.save()
    playground.close()
    assert {*inside.parent.rglob("*")} == before


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "..", "", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "/" * 64, None, b"0" * 64]
)
def test_a_key_does_not_lead_out_of_a_store(tmp_path, key):
    store = Store(tmp_path / "store")
    for method in (store.get, store.path, store.__contains__):
        with pytest.raises(ValueError, match="expected 64"):
            method(key)


@pytest.mark.parametrize("kind", ["/../../../secret.md", "../x", "exe", ""])
def test_a_kind_does_not_lead_out_of_a_store(tmp_path, kind):
    with pytest.raises(ValueError, match="expected 'json'"):
        Store(tmp_path / "store").path("0" * 64, kind)


def test_a_store_deletes_nothing_behind_a_link(tmp_path):
    """It clears away old temporary files and old signs of processes: its own, and not what a link leads to."""
    store, outside = Store(tmp_path / "store"), tmp_path / "outside"
    outside.mkdir()
    theirs = [outside / name for name in (".tmpabcdef", f"{'0' * 64}.1.aa.partial", "notes.txt", "1.aabbccdd")]
    for file in theirs:
        file.write_text("mine")
        os.utime(file, (time.time() - 10**6,) * 2)
    (tmp_path / "store/entries/00").symlink_to(outside)
    (tmp_path / "store/working").symlink_to(outside)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Store(store.folder).working():
            pass
    assert all(file.exists() for file in theirs)


def test_a_store_clears_away_only_signs(tmp_path):
    store = Store(tmp_path)
    with store.working():
        pass
    for name in ("notes.txt", "1.aabbccdd"):
        (tmp_path / "working" / name).touch()
        os.utime(tmp_path / "working" / name, (0, 0))
    with store.working():
        pass
    assert [file.name for file in (tmp_path / "working").iterdir()] == ["notes.txt"]


# ---- markup

HOSTILE = (
    """<script>window.hacked = 1</script>"><img src=x onerror="window.hacked = 1">'>"""
    """<svg onload='window.hacked = 1'></textarea></pre><q class=x>&lt;i&gt;"""
)
TAGS = set(
    "b br button code del details div em figcaption figure hr i img input ins li ol p pre small span style "
    "summary table tbody td th thead tr u ul".split()
)


class Found(HTMLParser):
    """Elements and attributes of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def check_html(html, shown=True):
    """No element, and no attribute, comes from a text; and the text is there to be read."""
    found = Found(html)
    assert set(found.tags) <= TAGS, set(found.tags) - TAGS
    for name, value in found.attributes:
        assert not name.startswith("on") or (name == "oninput" and "hacked" not in value), f"{name}={value}"
        assert name != "src" or value.startswith("data:image/"), value
        assert name not in ("srcdoc", "href", "action", "formaction") and (name, value) != ("class", "x")
    assert not shown or "hacked" in found.text


@pytest.fixture(scope="module")
def hostile(pipe):
    """An encoding in which everything that is text is hostile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoding = pipe.encoder.encode(HOSTILE, system=HOSTILE, thinking=HOSTILE, assistant=HOSTILE)
    n = len(encoding.embedding)
    return EncodingOutput(
        encoding.embeddings,
        encoding.input_ids,
        [[HOSTILE] * n],
        [HOSTILE],
        [(TokenSpan(HOSTILE, 0, n),)],
        -2,
        [False],
        model_id=HOSTILE,
        history=(HOSTILE,),
    )


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    """A folder of templates with hostile texts and file names, one of them broken."""
    folder = tmp_path_factory.mktemp("looks")
    Template(
        name="hostile",
        description=HOSTILE,
        category=HOSTILE,
        tags=(HOSTILE,),
        examples=(HOSTILE,),
        system_prompt=HOSTILE,
        thinking_content=HOSTILE,
        assistant_content=HOSTILE,
    ).save(folder / "hostile.md")
    name = HOSTILE.replace("/", "").replace("hacked", "named")[:120]
    (folder / f"{name}.md").write_text("---\nname: named\n---\nA look.\n")
    (folder / f"{name}2.md").write_text(f"---\nname: broken\nadd_think_block: {json.dumps(HOSTILE)}\n---\n")
    return folder


def failed_sweep(tmp_path):
    """Results of a sweep whose arguments, and the error of one cell, hold hostile text."""
    from llm_dit import Sweep

    return Sweep(prompt=[HOSTILE], template=[None, HOSTILE]).run(
        ZImageTextEncoder.from_pretrained("tiny", device="cpu"), tmp_path / "store", progress=False
    )


def shown_by(name, hostile, looks, tmp_path):
    """HTML of an object of a class, with hostile text wherever it can hold text."""
    if name == "Conversation":
        return Conversation.from_prompt(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    if name == "FormattedPrompt":
        return FormattedPrompt(HOSTILE, (Span(HOSTILE, 0, len(HOSTILE)),), (HOSTILE,))
    if name == "EncodingOutput":
        return hostile
    if name == "TemplateRegistry":
        return TemplateRegistry(looks)
    if name == "LintReport":
        return lint(looks)
    if name == "MemoryPlan":
        return MemoryPlan(
            "fast", HOSTILE, dict(text_encoder=1, transformer=1, vae=1), dict(encode=1, denoise=1, decode=1), 1, None
        )
    if name == "Results":
        return failed_sweep(tmp_path)


def with_html():
    """Names of all classes that show themselves as HTML."""
    return sorted(
        {
            node.name
            for source in SOURCES
            for node in ast.walk(ast.parse(source.read_text()))
            if isinstance(node, ast.ClassDef) and any(getattr(f, "name", "") == "_repr_html_" for f in node.body)
        }
    )


@pytest.mark.parametrize("name", with_html())
def test_texts_are_escaped_in_every_repr(name, hostile, looks, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_html(shown_by(name, hostile, looks, tmp_path)._repr_html_())


def test_the_folder_of_results_is_escaped(tmp_path):
    folder = tmp_path / "<img src=x onerror=window.hacked=1>"
    check_html(failed_sweep(folder)._repr_html_())
    from llm_dit import Sweep

    check_html(
        Sweep(prompt=["a"])
        .run(ZImageTextEncoder.from_pretrained("tiny", device="cpu"), folder, progress=False)
        ._repr_html_()
    )


def test_a_chat_string_is_escaped():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_html(
            format_prompt(HOSTILE + "<|im_end|>", system=HOSTILE, thinking=HOSTILE, assistant=HOSTILE)._repr_html_()
        )


def html_of(widget):
    """All that a widget and its parts show as HTML; labels are plain text."""
    if isinstance(widget, ipywidgets.HTML):
        yield widget.value
    assert getattr(widget, "description_allow_html", False) is False
    for child in getattr(widget, "children", ()):
        yield from html_of(child)


def test_texts_are_escaped_in_every_widget(pipe, hostile, looks):
    check_html(TokenStrip(hostile).value)
    check_html(text_difference(HOSTILE, HOSTILE + " more"))
    check_html(moved_strip(hostile, hostile))
    browser = TemplateBrowser(TemplateRegistry(looks))
    for stem in browser.registry:
        browser.names.value = stem
        for html in html_of(browser):
            check_html(html, shown=stem == "hostile")
    explorer = LayerExplorer(pipe.encoder, HOSTILE)
    assert explorer.wait() and not [*html_of(explorer)]
    explorer.close()
    images = [Image.new("RGB", (8, 8))] * 2
    assert not [*html_of(CompareSlider(*images))]


def test_texts_are_escaped_in_the_playground(pipe, looks):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        playground = Playground(pipe, HOSTILE, registry=TemplateRegistry(looks), save_folder=looks / "mine")
        seen = []

        def look():
            assert playground.wait()
            seen.extend([*html_of(playground), playground.snapshot().data])

        look()
        playground.pin()
        for stem in playground.editor.registry:
            playground.choose(stem)
            look()
        playground.editor.prompt.value += HOSTILE
        look()
        playground.choose(HOSTILE)  # no such template: the complaint names it
        look()
        assert HOSTILE[:8] in Found(playground.viewer.error.value).text
        playground.painter.steps.value, playground.painter.width.value, playground.painter.height.value = 1, 64, 64
        playground.generate()
        look()
        assert playground.painter.history.children and "hacked" in Found(playground.snapshot().data).text
        playground.close()
    for html in seen:
        check_html(html, shown=False)


# ---- the network

OFFLINE = """
import sys
asked = []
def watch(event, arguments):
    network = event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
    if network and not (event == "socket.connect" and isinstance(arguments[1], str)):
        asked.append((event, arguments))
        raise OSError(f"the network was asked: {event} {arguments}")
sys.addaudithook(watch)
"""


def offline(program, **environment):
    """Run a program in which every question to the network is an error, and counted."""
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "IN_TEST")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE + program + "\nassert not asked, asked\nprint('done')"],
        capture_output=True,
        text=True,
        env={**kept, **environment},
        cwd=ROOT,
    )
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr


def test_the_watch_sees_a_question(tmp_path):
    offline(
        "import urllib.request\ntry: urllib.request.urlopen('http://192.0.2.1/', timeout=1)\nexcept OSError: "
        "pass\nassert len(asked) == 1\nasked.clear()"
    )


def test_import_and_the_embedded_checkpoint_ask_no_network():
    """Every module, every public name, a picture and its repetition, without HF_HUB_OFFLINE."""
    offline("""
import importlib, pkgutil, tempfile, warnings
import llm_dit
for name in llm_dit.__all__: getattr(llm_dit, name)
for module in pkgutil.walk_packages(llm_dit.__path__, "llm_dit."): importlib.import_module(module.name)
assert not asked, asked
pipe = llm_dit.ZImagePipeline.from_pretrained("tiny", device="cpu")
made = pipe("a red circle", template="neon", num_inference_steps=1, height=64, width=64, progress=False)
pipe.reproduce(made.save(tempfile.mkdtemp() + "/a.png")[0], progress=False)
llm_dit.memory_plans("z-image-turbo")
""")


def test_a_model_in_the_cache_asks_no_network(tmp_path):
    """The embedded checkpoint as if it had been downloaded: with local_files_only, nobody asks whether there is a
    newer one.
    """
    cached = tmp_path / "hub/models--nobody--tiny"
    shutil.copytree(
        resolve_model("tiny"), cached / "snapshots" / ("a" * 40), ignore=shutil.ignore_patterns("training")
    )
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("a" * 40)
    offline(
        """
from llm_dit import ZImagePipeline
pipe = ZImagePipeline.from_pretrained("nobody/tiny", local_files_only=True, device="cpu")
pipe("a red circle", num_inference_steps=1, height=64, width=64, progress=False)
""",
        HF_HOME=str(tmp_path),
    )


@pytest.mark.parametrize(
    "environment, options",
    [({}, "local_files_only=True"), (dict(HF_HUB_OFFLINE="1"), "")],
    ids=["local_files_only", "HF_HUB_OFFLINE"],
)
def test_offline_means_offline(tmp_path, environment, options):
    """A model that is not in the cache is refused in one sentence, and nobody asks for it."""
    offline(
        f"""
from llm_dit import TransformersBackend, ZImagePipeline, ZImageTextEncoder, memory_plans
loaders = TransformersBackend, ZImageTextEncoder, ZImagePipeline
for call in (*(loader.from_pretrained for loader in loaders), memory_plans):
    try: call("nobody/nothing", {options})
    except FileNotFoundError as e: assert len(str(e).splitlines()) == 1, e
    else: raise AssertionError(call)
""",
        HF_HOME=str(tmp_path),
        **environment,
    )
