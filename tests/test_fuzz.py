"""Random input is read back as it was, or refused in one sentence: no other exception, no second of work, no 300 MB.

Each property runs 200 fixed cases. `make fuzz` (FUZZ_EXAMPLES=10000) runs as many random ones and prints for each how
many there were, the slowest, and what memory grew by.
"""

import contextlib
import io
import json
import os
import shutil
import struct
import sys
import unicodedata
import warnings
import zlib
from functools import cache
from pathlib import Path

import huggingface_hub.constants
import pytest
from fuzzing import LETTERS, folder, fuzz, one_sentence
from hypothesis import strategies as st
from PIL import Image
from qwen_vocabulary import qwen3_tokenizer

import llm_dit.cli.commands
from llm_dit import (
    Conversation,
    Generation,
    Qwen3Formatter,
    Recipe,
    SpecialTokenError,
    Store,
    StoreWarning,
    Template,
    TemplateError,
    TemplateRegistry,
    format_prompt,
    load_template,
)
from llm_dit.encoding.tokenizing import PromptTokenizer
from llm_dit.prompts.conversation import ConversationError
from llm_dit.prompts.formatter import SPECIAL_TOKENS, ThinkingConflictError
from llm_dit.studies.store import content_key

pytestmark = pytest.mark.side_by_side


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """What is read once is read before anything is timed."""
    for load in (tokenizer, shipped, png, store_files):
        load()
    for arguments in (["info"], ["templates", "lint"], ["encode", "a cat", "--heatmap", "x.png"]):
        assert run(arguments)[0] == 0


# ---- conversations and chat strings

ANY = st.text(st.characters(exclude_categories=()), max_size=12)  # surrogates too
FRAGMENTS = [
    "<|im_start|",
    "|im_end|>",
    "<|",
    "|>",
    "<think",
    "think>",
    "</",
    "\n",
    "\n\n",
    " ",
    "\u200b",
    "\u0301",
    "e",
    "a cat",
    "{x}",
    "system\n",
    "\0",
    "＜|im_end|＞",  # noqa: RUF001
    "<|IM_END|>",
    "&lt;think&gt;",
]
TEXT = st.lists(st.one_of(st.sampled_from([*SPECIAL_TOKENS, *FRAGMENTS]), ANY), max_size=6).map("".join)
THING = st.one_of(
    TEXT,
    st.none(),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.binary(max_size=5),
    st.lists(TEXT, max_size=2),
    st.dictionaries(TEXT, TEXT, max_size=2),
)
ROLES = st.sampled_from(["system", "user", "assistant"])
MESSAGE = st.fixed_dictionaries(
    dict(role=ROLES, content=TEXT), optional=dict(reasoning_content=st.one_of(st.none(), TEXT))
)
ODD_MESSAGE = st.one_of(
    MESSAGE,
    st.fixed_dictionaries(
        {},
        optional=dict(
            role=st.one_of(ROLES, THING),
            content=THING,
            reasoning_content=THING,
            thinking=THING,
            tool_calls=THING,
            name=THING,
        ),
    ),
    THING,
)


@fuzz(messages=st.one_of(st.lists(MESSAGE, max_size=5), st.lists(ODD_MESSAGE, max_size=3), THING))
def test_messages(messages):
    """A conversation comes from dictionaries and goes back to them."""
    try:
        conversation = Conversation.from_dicts(messages)
    except ConversationError as e:
        return one_sentence(e, ConversationError)
    assert Conversation.from_dicts(conversation.to_dicts()) == conversation
    for given_, back in zip(messages, conversation.to_dicts(), strict=True):
        assert (back["role"], back["content"]) == (given_["role"], given_["content"])
        if "reasoning_content" in given_:
            assert back.get("reasoning_content") == given_["reasoning_content"] or given_["reasoning_content"] is None
    assert conversation._repr_html_().encode()


def check_spans(prompt):
    """Spans are the string, without gaps, and segments are too."""
    assert "".join(prompt.span_text(span) for span in prompt.spans) == prompt.text and all(
        span.start < span.end for span in prompt.spans
    )
    assert [span.start for span in prompt.spans] == [0, *(span.end for span in prompt.spans)][:-1]
    assert "".join(text for text, _ in prompt.segments()) == prompt.text and prompt._repr_html_().encode()


@cache
def tokenizer():
    """Qwen3's vocabulary, as this package reads chat strings with it."""
    return PromptTokenizer(qwen3_tokenizer())


def check_ids(prompt):
    """By the real tokenizer, only the format's own special tokens are special, and the text is all there."""
    ids, offsets = tokenizer()(prompt)
    own = [
        text
        for text in (prompt.span_text(span) for span in prompt.spans if span.label == "special")
        if text in SPECIAL_TOKENS
    ]
    assert [i for i in ids if i >= 151643] == tokenizer().tokenizer.convert_tokens_to_ids(own)
    assert tokenizer().tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == "".join(
        unicodedata.normalize("NFC", text) for text, _ in prompt.segments()
    )
    assert len(ids) == len(offsets) and all(0 <= a <= b <= len(prompt.text) for a, b in offsets)


def labelled(prompt, label):
    """All text of a label."""
    return "".join(prompt.span_text(span) for span in prompt.spans if span.label == label)


@fuzz(
    prompt=TEXT,
    system=st.one_of(st.none(), TEXT),
    thinking=st.one_of(st.none(), TEXT),
    assistant=st.one_of(st.none(), TEXT),
    enable_thinking=st.sampled_from([None, True, False]),
    special_tokens=st.sampled_from(["escape", "error", "allow"]),
    continue_final_message=st.booleans(),
)
def test_prompts(prompt, system, thinking, assistant, enable_thinking, special_tokens, continue_final_message):
    """Spans are the string; with "escape" the real tokenizer sees no forged token, with "error" there is none."""
    texts = dict(system=system, thinking=thinking, assistant=assistant)
    try:
        made = format_prompt(
            prompt,
            **texts,
            enable_thinking=enable_thinking,
            special_tokens=special_tokens,
            continue_final_message=continue_final_message,
        )
    except ValueError as e:
        return one_sentence(e, ConversationError, SpecialTokenError, ThinkingConflictError)
    check_spans(made)
    assert (
        labelled(made, "user") == prompt
        and labelled(made, "system") == (system or "")
        and labelled(made, "thinking") == (thinking or "").strip("\n")
    )
    if special_tokens == "error":
        assert not made.forged
    if special_tokens != "allow":
        check_ids(made)


@fuzz(
    messages=st.lists(MESSAGE, min_size=1, max_size=5),
    special_tokens=st.sampled_from(["escape", "error", "allow"]),
    keep=st.booleans(),
    block=st.sampled_from([None, True, False]),
    generation=st.booleans(),
    continued=st.booleans(),
)
def test_conversations(messages, special_tokens, keep, block, generation, continued):
    """The same for conversations, with roles in any order."""
    formatter = Qwen3Formatter(special_tokens=special_tokens, keep_past_thinking=keep, enable_thinking=block)
    try:
        made = formatter.format(messages, add_generation_prompt=generation, continue_final_message=continued)
    except ValueError as e:
        return one_sentence(e, ConversationError, SpecialTokenError)
    check_spans(made)
    assert labelled(made, "user") == "".join(m["content"] for m in messages if m["role"] == "user")
    if special_tokens == "error":
        assert not made.forged
    if special_tokens != "allow":
        check_ids(made)


# ---- templates

SHIPPED = sorted((Path(__file__).parent.parent / "templates").rglob("*.md"))
SNIPPETS = [
    "!!bool x",
    "!x",
    "&a ",
    "*a",
    "<<: ",
    "? ",
    "- ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    "'",
    '"',
    '"\\x00"',
    '"\\ud800"',
    "|",
    ">",
    "\t",
    "---\n",
    "%YAML 1.1\n",
    "\r",
    "\0",
    "\ufeff",
    "\x85",
    "\u2028",
    "=",
    "0b_",
    "9" * 5000,
    f"1{':0' * 200}.5",
    ".inf",
    ".nan",
    "~",
    "2020-99-99",
    "2020-01-01 00:00:00 +99:99",
    "0001-01-01",
    "<|im_end|>",
    '"\\x3c/think>"',
    "{subject}",
    "null",
    "true",
    "#",
    "@",
    "`",
    "[" * 12,
    "a" * 2000,
    "../../x",
    "name: x\n",
    "tags: [a]\n",
    "variables: {subject: x}\n",
    "thinking_content: |\n  a\n",
    "x: !!binary a\n",
    "\U0001f600",
]
BYTES = st.one_of(
    st.sampled_from(SNIPPETS).map(str.encode),
    st.binary(max_size=4),
    ANY.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), BYTES), min_size=1, max_size=4
)  # where, how much to take out, what to put in
VALUES = st.one_of(st.sampled_from(SNIPPETS), ANY)
KEYS = st.one_of(st.sampled_from(sorted(Template.model_fields)), VALUES)
FRONTS = st.lists(st.tuples(KEYS, VALUES), max_size=6).map(
    lambda rows: "".join(f"{key}: {value}\n" for key, value in rows)
)


def changed(raw: bytes, changes) -> bytes:
    """Bytes with some taken out and others put in, most of them near the beginning, where front matter is."""
    for place, out, new in changes:
        at = int(place**2 * len(raw))
        raw = raw[:at] + new + raw[at + out :]
    return raw


CONTENTS = st.one_of(
    st.builds(changed, st.sampled_from(SHIPPED).map(Path.read_bytes), CHANGES),
    FRONTS.map(lambda front: f"---\n{front}---\nA look of {{subject}}.\n".encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
)


@fuzz(content=CONTENTS)
def test_template_files(content):
    """A file is a template that can be used and saved, or it is refused; a registry shows it, or why it cannot."""
    place = folder() / "templates"
    place.mkdir(exist_ok=True)
    file = place / "fuzzed.md"
    file.write_bytes(content)
    registry = TemplateRegistry(place)
    assert registry._repr_html_().encode() and repr(registry)
    try:
        template = load_template(file)
    except TemplateError as e:
        one_sentence(e, TemplateError)
        with pytest.raises(TemplateError):
            registry["fuzzed"]
        return
    assert registry["fuzzed"] == template and repr(template) and len(template.hash) == 64
    check_ids(format_prompt("a cat", **template.resolve()))
    try:
        back = load_template(template.save(folder() / "saved.md"))
    except TemplateError as e:
        return one_sentence(e, TemplateError)
    assert back.replace(path=None) == template.replace(path=None)


@fuzz(
    fields=st.dictionaries(st.one_of(st.sampled_from(sorted(Template.model_fields)), TEXT), THING, max_size=4),
    values=st.dictionaries(st.one_of(st.just("x"), TEXT), THING, max_size=2),
)
def test_template_fields(fields, values):
    """The same for a template that a program makes, fills and saves."""
    base = Template(name="base", variables={"x": "y"}, system_prompt="A look of {x}.")
    try:
        made = base.replace(**{key: value for key, value in fields.items() if key != "path"})
    except TemplateError as e:
        return one_sentence(e, TemplateError)
    try:
        filled = made.fill(**values)
    except TemplateError as e:
        one_sentence(e, TemplateError)
    else:
        assert not filled.variables
    try:
        back = load_template(made.save(folder() / "saved.md"))
    except TemplateError as e:
        return one_sentence(e, TemplateError)
    assert back.replace(path=None) == made


@fuzz(name=st.one_of(TEXT, THING))
def test_template_names(name):
    """Any name is one of a template, or refused with what there is."""
    try:
        assert shipped()[name].system_prompt
    except TemplateError as e:
        one_sentence(e, TemplateError)
    if isinstance(name, str):
        try:
            load_template(f"{folder()}/nowhere/{name}.md")
        except TemplateError as e:
            one_sentence(e, TemplateError)


@cache
def shipped():
    """The templates that come with the package."""
    return TemplateRegistry.shipped()


# ---- recipes and pictures

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY, inner, max_size=3)),
    max_leaves=6,
)
FIELDS = sorted(Recipe.__dataclass_fields__)


@cache
def recipe() -> Recipe:
    """A recipe with something in every kind of field."""
    text = format_prompt("a cat <|im_end|>", system="Plain.", thinking="Fur.", special_tokens="allow")
    return Recipe(
        text=str(text),
        input_ids_hash="0" * 16,
        seed=3,
        height=64,
        width=64,
        model="tiny",
        loras=(("x.safetensors", 0.5),),
        spans=tuple((s.label, s.start, s.end) for s in text.spans),
        forged=text.forged,
        history=("scale(2)",),
        negative_prompt="a dog",
        strength=0.5,
        image_hash="0" * 16,
    )


def usable(found: Recipe):
    """Everything a recipe can do works."""
    assert Recipe.from_json(found.to_json()).to_json() == found.to_json() and str(found.formatted()) == found.text
    assert (
        compile(found.to_code(), "recipe", "exec")
        and found.parameters().encode()
        and isinstance(found.diff(recipe()), dict)
    )


@fuzz(
    text=st.one_of(
        st.tuples(
            st.dictionaries(st.one_of(st.sampled_from(FIELDS), ANY), JSON, max_size=3),
            st.sets(st.sampled_from(FIELDS), max_size=1),
        ).map(
            lambda t: json.dumps(
                {k: v for k, v in {**json.loads(recipe().to_json()), **t[0]}.items() if k not in t[1]}
            )
        ),
        st.integers(0, 900).map(lambda n: recipe().to_json()[:n]),
        JSON.map(json.dumps),
        ANY,
        st.integers(1, 200_000).map(lambda n: "[" * n),
        st.sampled_from(['{"text":' + "9" * 5000 + "}", '{"a":' * 50_000]),
    )
)
def test_recipe_json(text):
    """What is read as a recipe is one in all its fields."""
    try:
        found = Recipe.from_json(text)
    except ValueError as e:
        return one_sentence(e, ValueError)
    usable(found)
    said = json.loads(text)
    assert all(json.loads(found.to_json())[name] == said[name] for name in ("text", "seed", "height", "width")), (
        "what was written is what is read"
    )


@cache
def png() -> bytes:
    """A real file, as the package saves it."""
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    return Generation([picture], [recipe()], None, {}).save(folder() / "real.png")[0].read_bytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(chunks) -> bytes:
    """The file with chunks put in after its header; their checksums are right."""
    return png()[:33] + b"".join(chunk(kind, data) for kind, data in chunks) + png()[33:]


def flipped(flips) -> bytes:
    """The file with some bits turned."""
    raw = bytearray(png())
    for place, bit in flips:
        raw[int(place * (len(raw) - 1))] ^= 1 << bit
    return bytes(raw)


NAMED = st.sampled_from([b"llm_dit_recipe\0", b"llm_dit_recipe\0\0\0\0\0", b"llm_dit_recipe\0\1\0\0\0", b"x\0", b""])
TEXT_CHUNKS = st.lists(
    st.tuples(
        st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"IHDR", b"PLTE", b"iCCP", b"acTL", b"abCd"]),
        st.builds(bytes.__add__, NAMED, st.one_of(st.binary(max_size=40), JSON.map(json.dumps).map(str.encode))),
    ),
    min_size=1,
    max_size=3,
)


@fuzz(
    flips=st.lists(st.tuples(st.one_of(st.floats(0, 1), st.floats(0, 0.2)), st.integers(0, 7)), min_size=1, max_size=3)
)
def test_png_with_turned_bits(flips):
    """A checksum stands over the recipe: it is found as it was, or refused."""
    content = flipped(flips)
    assert read_png(content) in (None, recipe())
    assert content != png() or read_png(content) == recipe(), "two turns of one bit are none"


@fuzz(length=st.floats(0, 1))
def test_png_cut_off(length):
    """The same for a file that ends too early."""
    content = png()[: int(length**2 * len(png()))]
    found = read_png(content)
    assert found == recipe() if content == png() else found in (None, recipe())
    assert found is None or b"llm_dit_recipe" in content


@fuzz(chunks=TEXT_CHUNKS)
def test_png_with_other_chunks(chunks):
    """Whatever is written in text chunks is a recipe in all its fields, or refused."""
    content, names = (
        with_chunks(chunks),
        [data.partition(b"\0")[0] for kind, data in chunks if kind in (b"tEXt", b"zTXt", b"iTXt")],
    )
    found = read_png(content)
    assert found in (None, recipe()) or b"llm_dit_recipe" in names, "only a chunk of that name holds a recipe"


@fuzz(
    content=st.one_of(
        st.binary(max_size=200),
        st.builds(
            bytes.__add__,
            st.sampled_from([png()[:8], b"GIF89a", b"\xff\xd8\xff", b"RIFF", b"%!PS"]),
            st.binary(max_size=200),
        ),
    )
)
def test_other_files_as_png(content):
    """A file that is something else."""
    assert read_png(content) is None


def read_png(content):
    """Read a recipe out of a file with this content; None if it is refused in one sentence."""
    file = folder() / "fuzzed.png"
    file.write_bytes(content)
    try:
        found = Recipe.from_png(file)
    except ValueError as e:
        return one_sentence(e, ValueError)
    usable(found)
    return found


# ---- the store

IDENTITIES = [dict(prompt=f"{n} cats", seed=n) for n in range(3)]


@cache
def store_files() -> dict[str, bytes]:
    """The files of a store of three entries, the last with a picture."""
    place = folder() / "whole"
    store = Store(place)
    for n, identity in enumerate(IDENTITIES):
        store.put(identity, dict(norm=n), files=dict(png=b"picture") if n == 2 else None)
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def written(**changes):
    """A folder with the files of the store, some of them others."""
    place = folder() / "store"
    shutil.rmtree(place, ignore_errors=True)
    for name, content in {**store_files(), **changes}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def odd_record(changes, gone):
    """A line of the index in which some fields are others."""
    record = json.loads(store_files()["index.jsonl"].splitlines()[0])
    return json.dumps({key: value for key, value in {**record, **changes}.items() if key not in gone}).encode()


RECORD_FIELDS = ["key", "identity", "result", "error", "files", "time"]
LINES = st.one_of(
    st.binary(max_size=30),
    JSON.map(json.dumps).map(str.encode),
    st.integers(1, 100_000).map(lambda n: b"[" * n),
    st.builds(
        odd_record,
        st.dictionaries(st.sampled_from(RECORD_FIELDS), JSON, max_size=2),
        st.sets(st.sampled_from(RECORD_FIELDS), max_size=1),
    ),
)


def used(store):
    """Everything a store can do with what it has works."""
    assert len(store) == len(list(store)) and repr(store) and len(store.table()) == len(store)
    for record in store:
        store.get(record["key"])
    assert store.put(dict(prompt="new"), dict(norm=1))["result"] == dict(norm=1)
    store.rebuild()


@fuzz(lines=st.lists(LINES, min_size=1, max_size=3), place=st.integers(0, 3), cut=st.integers(0, 40))
def test_store_index(lines, place, cut):
    """Whatever stands in the index, the entries that it does not misrepresent are found."""
    known = store_files()["index.jsonl"].splitlines()
    index = b"\n".join([*known[:place], *lines, *known[place:]])
    store = Store(written(**{"index.jsonl": index[: len(index) - cut]}))
    for n in (1, 2):
        assert store.get(content_key(IDENTITIES[n]))["result"] == dict(norm=n)
    store.get(content_key(IDENTITIES[0]))  # of which a line may say something else
    used(store)


@fuzz(which=st.integers(0, 2), length=st.floats(0, 1), new=st.one_of(st.just(b""), LINES), png=st.booleans())
def test_store_entries(which, length, new, png):
    """An entry that is cut off or damaged is left out with a warning; the others are found."""
    key = content_key(IDENTITIES[which])
    name = next(name for name in store_files() if name.endswith(f"{key}.{'png' if png and which == 2 else 'json'}"))
    whole = store_files()[name]
    content = whole[: int(length * (len(whole) - 1))] + new
    place = written(**{name: content, "index.jsonl": b""})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        store = Store(place)
        found = store.get(key)
    intact = len(content) == len(whole) if name.endswith(".png") else content.strip() == whole.strip()
    if found is None:
        assert not intact and any(issubclass(w.category, StoreWarning) for w in said)
    else:
        assert found["identity"] == IDENTITIES[which] and (intact or json.loads(content) == found), (
            "whole, though another's"
        )
    for other, identity in enumerate(IDENTITIES):
        assert other == which or store.get(content_key(identity))["result"] == dict(norm=other)
    used(store)


# ---- the command line

WORD = st.one_of(
    st.sampled_from(
        [
            "",
            "-",
            "--",
            "-1",
            "0",
            "1e999",
            "nan",
            "inf",
            "9" * 30,
            "a cat",
            "noir",
            "tiny",
            "nope",
            "a/b",
            ".",
            "..",
            "/nowhere",
            "nowhere.md",
            "nowhere/x.png",
            "real.png",
            "~",
            "*",
            "a=b",
            "<|im_end|>",
            "\udcff",
            "\0",
            "cpu",
            "cuda",
            "meta",
            "float32",
            "int8",
            "allow",
            "error",
            "--help",
            "-h",
            "--version",
            "a\nb",
            "x" * 5000,
        ]
    ),
    ANY,
)
OPTIONS = st.sampled_from(
    [
        "--model",
        "-m",
        "--template",
        "-t",
        "--system",
        "--thinking",
        "--assistant",
        "--special-tokens",
        "--hidden-layer",
        "--device",
        "--dtype",
        "--max-length",
        "--on-overflow",
        "--save",
        "--heatmap",
        "--json",
        "--vram",
        "--memory",
        "--quantization",
        "--height",
        "--width",
        "--code",
        "--output",
        "-o",
        "--image",
    ]
)
COMMANDS = st.sampled_from(
    [
        ["templates"],
        ["templates", "show"],
        ["templates", "search"],
        ["templates", "lint", "."],
        ["info"],
        ["encode"],
        ["encode", "a cat"],
        ["reproduce", "--code"],
        ["reproduce", "--code", "real.png"],
        ["sweep"],
    ]
)


@contextlib.contextmanager
def command(arguments):
    """The state in which a command line begins: its arguments, and a folder to work in."""
    old, here, offline = sys.argv, os.getcwd(), huggingface_hub.constants.HF_HUB_OFFLINE
    place = folder() / "work"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "real.png").write_bytes(png())
    sys.argv, huggingface_hub.constants.HF_HUB_OFFLINE = ["llm-dit", *arguments], True
    os.chdir(place)
    try:
        yield
    finally:
        sys.argv, huggingface_hub.constants.HF_HUB_OFFLINE = old, offline
        os.chdir(here)


def run(arguments):
    """Exit code and what was printed on each stream; any other exception goes on."""
    out, err = io.StringIO(), io.StringIO()
    with command(arguments), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            llm_dit.cli.commands.main()
        except SystemExit as end:
            code = end.code or 0
        else:
            code = 0
    return code, out.getvalue(), err.getvalue()


@fuzz(
    words=st.builds(
        lambda start, pairs, rest: [*start, *(word for pair in pairs for word in pair), *rest],
        COMMANDS,
        st.lists(st.tuples(OPTIONS, WORD), max_size=3),
        st.lists(WORD, max_size=2),
    )
)
def test_command_line(words):
    """Exit code 0, 1 or 2; with 2 a refusal in one line, of a command or of typer, which parses what is typed."""
    code, out, err = run(words)
    assert code in (0, 1, 2) and "Traceback" not in out + err
    ours = [line for line in err.splitlines() if line.startswith("llm-dit: ")]
    if code == 2 and not ("Usage:" in out + err or "Error" in err):
        assert len(ours) == 1 and len(ours[0]) <= LETTERS + 100, err
