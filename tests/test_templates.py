"""What the templates promise, one by one; `tools/mutation.py` says which of it the notebook leaves open."""

import hashlib
import json
import os
import re
import warnings
from pathlib import Path

import pytest

import llm_dit.prompts.templates
from llm_dit.prompts.front_matter import MAX_FRONT, TemplateError, template_error
from llm_dit.prompts.template_files import MAX_BYTES, Template, front_matter_schema, load_template
from llm_dit.prompts.templates import TemplateRegistry, UnknownTemplateError

pytestmark = pytest.mark.side_by_side


@pytest.fixture()
def write(tmp_path):
    """Write a template file, and return its path."""

    def write(name, content="---\nmodel: z-image\n---\n", time=None):
        path = tmp_path / "looks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if time:
            os.utime(path, (time, time))
        return path

    return write


def refusal(f, *args, **kwargs):
    """The error with which a call is refused."""
    with pytest.raises(TemplateError) as raised:
        f(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return raised.value


# ---- where a file is wrong

LONG = "x" * MAX_FRONT
NESTED = "[" * 9 + "]" * 9
WRONG = [  # content, line that is named (None: the file as a whole), key, and what is said
    ("", None, None, "is empty"),
    (" \n\n", None, None, "is empty"),
    ("A look.\n", 1, None, "front matter is missing"),
    ("---\nname: a\n", 1, None, "front matter is not closed"),
    ("---\nname: a\n\tb: c\n---\n", 3, None, "not valid YAML"),
    ("---\nname: a\ntags: [a\n---\n", 4, None, "not valid YAML"),
    ("---\nname: a\nd: noir: dark\n---\n", 3, None, "not valid YAML (mapping values are not allowed in this context)"),
    ("---\nname: a\nd: \x01\n---\n", 3, None, "has the control character U+0001"),
    ("---\n- name\n---\n", 2, None, "is not a list of keys"),
    ("---\nname: a\n[b]: c\n---\n", 3, None, "a key is not a word"),
    ('---\nname: a\n"": c\n---\n', 3, None, "a key is not a word"),
    ("---\nname: a\ntags: []\nname: b\n---\n", 4, "name", "given twice (first in line 2)"),
    ("---\nname: a\nb: &c 1\n---\n", 3, None, "YAML reference"),
    ("---\nname: a\nb: *c\n---\n", 3, None, "YAML reference"),
    ("---\nname: a\nb: !!str c\n---\n", 3, None, "YAML tag"),
    (f"---\nname: a\nb: {NESTED}\n---\n", 3, None, "nested ten levels deep"),
    ("---\nname: a\nd: 2024-13-45\n---\n", 1, None, "cannot be read (month must be in 1..12): quote it"),
    (f"---\nd: {LONG}\n---\n", 1, None, "expected at most 100,000"),
    ("---\nname: a\nadd_think_block: 3\n---\n", 3, "add_think_block", "is '3', expected a valid boolean"),
    ("---\nname: a\nadd_think_block: 'yes'\n---\n", 3, "add_think_block", "is 'yes', expected a valid boolean"),
    ("---\ntags: sun\nname: ../a\n---\n", 3, "name", "expected letters"),
    ("---\nname: a\n---\n\n<think>\n", 5, None, "special-token text"),
    ("---\nname: a\ntags: sun\n---\n", 3, "tags", "is 'sun', expected a valid list"),
    ("---\nname: a\ntags: [1]\n---\n", 3, "tags", "is '1', expected a valid string"),
    ("---\nname: ../a\n---\n", 2, "name", "expected letters, digits, spaces and . _ + - only"),
    ("---\nname: a\n---\nfine\nnot fine <|im_end|>\n", 5, None, "special-token text '<|im_end|>' in a template"),
    ("---\nname: a\n---\na </think>\n<|im_end|>\n", 4, None, "special-token text '</think>' in a template"),
    ("---\nname: a\nd: <think>\n---\n", 3, None, "special-token text '<think>' in a template"),
    ('---\nname: a\nassistant_content: "\\x3cthink>"\n---\n', 3, "assistant_content", "text '<think>'"),
    ('---\nthinking_content: "a\\nb\\n\\x3cthink>"\n---\n', 2, "thinking_content", "special-token text '<think>'"),
    (b"---\nname: a\n---\ncaf\xe9\n", 4, None, "byte 0xe9 is not UTF-8"),
    ("\ufeff---\nname: a\n---\n", 1, None, "has a byte-order mark"),
    ("---\nname: a\r\n---\n", 2, None, "has a Windows line end (CR)"),
    ("---\nname: a\n---\n\0\n", 4, None, "has a zero byte"),
]


@pytest.mark.parametrize("content, line, key, said", WRONG)
def test_the_line_and_the_key_that_are_wrong(write, content, line, key, said):
    path = write("bad.md", content)
    error = refusal(load_template, path)
    assert (error.path, error.line, error.key) == (path, line, key)
    assert str(error).startswith(f"{path}:{line}: " if line else f"{path}: ") and said in str(error)


def test_the_most_that_is_read(write):
    head = "---\nname: big\n---\n"
    template = load_template(write("big.md", head + "a" * (MAX_BYTES - len(head))))
    assert len(template.system_prompt) == 1_000_000 - len(head)
    error = refusal(load_template, write("big.md", head + "a" * (MAX_BYTES - len(head) + 1)))
    assert "has 1,000,001 bytes, expected at most 1,000,000" in str(error) and error.line is None
    start = "description: "
    load_template(write("front.md", f"---\n{start}{'x' * (100_000 - len(start) - 1)}\n---\n"))
    refusal(load_template, write("front.md", f"---\n{start}{'x' * (100_000 - len(start))}\n---\n"))


def test_nine_levels_are_read(write):
    deep = load_template(write("deep.md", "---\na: " + "[" * 8 + "]" * 8 + "\nb: [[1], [2]]\n---\n"))
    assert deep.metadata["b"] == [[1], [2]], "and levels that are closed again do not count"
    many = "".join(f"k{n}: [{{a: 1}}]\n" for n in range(20))
    assert len(load_template(write("many.md", f"---\n{many}---\n")).metadata) == 20
    lists = "".join(f"k{n}:\n  - 1\n" for n in range(20))
    assert len(load_template(write("lists.md", f"---\n{lists}---\n")).metadata) == 20


def test_long_values_are_shortened_in_a_refusal(write):
    assert len(str(refusal(load_template, write("a.md", f"---\nname: {'/' * 500}\n---\n"))).split(": ", 1)[1]) < 200
    said = str(refusal(Template(name="a").replace, **{"k" * 70: "v" * 90}))
    assert f"'{'k' * 60}' is '{'v' * 80}', " in said
    said = str(refusal(load_template, write("c.md", f"---\nn: {'1' * 5000}\n---\n")))
    assert len(re.search(r"cannot be read \((.*)\): quote it", said)[1]) == 120
    twice = f"---\n{'k' * 100}: 1\n{'k' * 100}: 2\n---\n"
    assert f"key '{'k' * 60}' is given twice" in str(refusal(load_template, write("b.md", twice)))


def test_what_cannot_be_a_file(tmp_path):
    assert "cannot be read (No such file or directory)" in str(refusal(load_template, tmp_path / "none.md"))
    assert "is no file, expected a Markdown file" in str(refusal(load_template, tmp_path))
    assert "is no name of a file" in str(refusal(load_template, "a\0.md"))


def test_a_path_in_a_refusal_fits_into_a_line():
    error = template_error
    assert str(error("a" * 200, None, "no.")) == "a" * 200 + ": no."
    assert str(error("b" + "a" * 200, 2, "no.")) == "…" + "a" * 200 + ":2: no."


# ---- a template and its file


def test_defaults_of_a_file(write):
    template = load_template(write("light/dusk.md", "---\nseed: 3\nmodel: x\n---\n\n  Low light.  \n\n"))
    assert (template.name, template.category, template.model) == ("dusk", "light", "x")
    assert template.system_prompt == "Low light." and template.metadata == {"seed": 3}
    assert (template.tags, template.examples, template.variables, template.description) == ((), (), {}, "")
    assert template.path == write("light/dusk.md")


def test_lists_of_a_file_are_lists_only_where_they_should_be(write):
    assert load_template(write("a.md", "---\ntags: [a]\nexamples: [b]\n---\n")).examples == ("b",)
    assert refusal(load_template, write("a.md", "---\ndescription: [a]\n---\n")).key == "description"


def test_variables(write):
    template = Template(
        name="poster",
        variables={"ink": "red", "title": "OPEN"},
        system_prompt="{title} in {ink} {x}",
        thinking_content="{ink}?",
        assistant_content="{title}:",
    )
    assert template.resolve() == dict(system="OPEN in red {x}", thinking="red?", assistant="OPEN:")
    assert template.fill(ink="blue").variables == {} and template.fill(ink="blue").thinking_content == "blue?"
    assert template.resolve(system="mine", thinking="", assistant="so")["system"] == "mine"
    assert template.resolve(enable_thinking=False)["thinking"] is None
    assert repr(template) == "Template('poster', no category, 4 words, think block, {ink, title})"
    assert "no variable 'a': it has ink, title." in str(refusal(template.fill, b="x", a="x"))
    assert "it has none." in str(refusal(Template(name="plain").fill, ink="red"))
    assert f"no variable '{'v' * 60}': " in str(refusal(template.fill, **{"v" * 70: "x"}))


def test_resolve_keeps_what_the_caller_gives():
    template = Template(name="a", system_prompt="s", assistant_content="b", add_think_block=False)
    assert template.resolve(assistant="")["assistant"] == "" and template.resolve(system="")["system"] == ""
    assert template.resolve(thinking="mine")["thinking"] == "mine"
    assert Template(name="a").resolve()["system"] is None
    assert Template(name="a", add_think_block=True, thinking_content="t").resolve()["thinking"] == "t"


def test_equal_templates_share_a_hash():
    template = Template(name="a", system_prompt="s")
    assert template.hash == Template(name="b", system_prompt="s ").hash, "the name does not reach the encoder"
    assert len({template, Template(name="a", system_prompt="s"), Template(name="b", system_prompt="s")}) == 2
    others = [template.replace(**{field: "x"}) for field in ("system_prompt", "thinking_content", "assistant_content")]
    assert len({template.hash, *(other.hash for other in others)}) == 4
    assert str(template) == repr(template) == "Template('a', no category, 1 words)"


def test_the_hash_is_that_of_earlier_versions():
    """It stands in recipes that were written."""
    content = b'{"assistant": null, "system": "s", "thinking": ""}'
    assert Template(name="a", system_prompt="s", add_think_block=True).hash == hashlib.sha256(content).hexdigest()


def test_replace_names_what_was_to_be_made(write):
    """The file that a template was read from is not at fault."""
    path = write("a.md")
    for changes, name in ((dict(), "a"), (dict(name="b"), "b"), (dict(path=Path("c.md"), name="b"), "c.md")):
        said = str(refusal(load_template(path).replace, tags=3, **changes))
        assert said.startswith(f"{name}: 'tags' is '3', expected a valid list")
    assert refusal(load_template(path).replace, colour="red").key == "colour"


def test_thoughts_keep_their_blanks():
    template = Template(name="a", thinking_content=" a \n b\n\n", assistant_content="\nb\n")
    assert (template.thinking_content, template.assistant_content) == (" a \n b", "\nb")


def test_a_saved_file_says_what_is_not_usual_and_no_more(tmp_path):
    template = Template(name="d", tags=("b", "a"), thinking_content="one\ntwo", system_prompt="s", metadata={"n": 3})
    path = template.save(tmp_path / "new" / "folder" / "dusk.md")
    assert path.read_text() == (
        "---\nname: d\ncategory: ''\ntags:\n- b\n- a\nthinking_content: |-\n  one\n  two\nn: 3\n---\ns\n"
    )
    long = template.replace(description="много слов " * 100)
    text = long.save(path).read_text()
    assert long.description in text, "in one line, and in its own letters"


def test_what_cannot_be_saved(tmp_path):
    template = Template(name="a")
    assert "does not end in .md" in str(refusal(template.save, tmp_path / "a.txt"))
    for changes in (dict(metadata={"x": object()}), dict(system_prompt="\ud83d")):
        assert "cannot be written as YAML" in str(refusal(template.replace(**changes).save, tmp_path / "a.md"))
    long = type("Long", (), {"__repr__": lambda _: "x" * 300})
    said = str(refusal(template.replace(metadata={"x": long()}).save, tmp_path / "a.md"))
    assert len(re.search(r"in UTF-8 \((.*)\): use plain text", said)[1]) == 200
    error = refusal(template.replace(metadata={"thinking_content": "x"}, tags=["t" * 100]).save, tmp_path / "a.md")
    assert "'thinking_content' would not be read back as it is (None)" in str(error)
    assert error.key == "thinking_content"
    error = refusal(template.replace(metadata={"tags": []}, tags=["t" * 100]).save, tmp_path / "a.md")
    assert f"('{'t' * 100}',)"[:80] + ")" in str(error) and f"('{'t' * 100}',)"[:81] not in str(error)
    assert not [*tmp_path.iterdir()]


# ---- registries


def test_what_is_a_template_file(write, tmp_path):
    for name in ("b.md", "sub/a.md", "README.md", "sub/readme.md", "notes.txt", "c.MD"):
        write(name)
    (tmp_path / "looks" / "folder.md").mkdir()
    registry = TemplateRegistry(tmp_path / "looks")
    assert list(registry) == ["a", "b"] and registry.errors == {}
    assert "is not a folder" in str(refusal(TemplateRegistry, tmp_path / "looks" / "b.md"))


def test_links_within_the_folder_are_followed(write, tmp_path):
    path = write("a.md")
    (path.parent / "b.md").symlink_to(path)
    (tmp_path / "outside.md").write_text(path.read_text())
    (path.parent / "c.md").symlink_to(tmp_path / "outside.md")
    (path.parent / "gone.md").symlink_to(path.parent / "nothing.md")
    registry = TemplateRegistry(path.parent)
    assert list(registry) == ["a", "b"] and list(registry.errors) == ["c"]
    assert "leaves the template folder" in str(refusal(registry.__getitem__, "c"))


def test_names_that_two_files_claim(write):
    write("a/one.md", "---\nname: two\n---\n")
    write("b/two.md", "---\nname: other\n---\n")
    write("b/three.md", "---\nname: third\n---\n")
    registry = TemplateRegistry(write("b/three.md", "---\nname: third\n---\n").parent.parent)
    assert list(registry) == ["three"] and list(registry.errors) == ["one", "two"]
    assert registry["third"] is registry["three"] and "other" not in registry
    said = str(registry.errors["two"])
    assert "two.md: has the name 'two' of" in said and "one.md" in said


def test_a_clash_of_three_names_the_first_two(write):
    files = [write(f"{n}/{n}.md", "---\nname: look\n---\n") for n in "abc"]
    errors = TemplateRegistry(files[0].parent.parent).errors
    assert list(errors) == ["a", "b", "c"]
    assert all(str(error).startswith(f"{files[1]}: has the name 'look' of {files[0]}, ") for error in errors.values())


def test_a_later_folder_stands_in_for_an_earlier_one(write, tmp_path):
    write("first/a.md", "---\nname: old\n---\n")
    write("first/b.md")
    write("second/a.md", "---\nname: new\n---\n")
    first, second = tmp_path / "looks" / "first", tmp_path / "looks" / "second"
    registry = TemplateRegistry(first, second)
    assert list(registry) == ["a", "b"] and registry["a"].name == "new" and registry["new"] is registry["a"]
    write("second/b.md", "broken")
    registry = TemplateRegistry(first, second)
    assert list(registry) == ["a"] and list(registry.errors) == ["b"] and "b" not in registry
    assert list(TemplateRegistry(second, first).errors) == [], "and the other way round"


def test_layers_from_the_environment(write, tmp_path, monkeypatch):
    write("one/mine.md")
    write("two/yours.md")
    folders = [str(tmp_path / "looks" / name) for name in ("one", "two")]
    monkeypatch.setenv("LLM_DIT_TEMPLATES", os.pathsep.join([folders[0], "", folders[1]]))
    registry = TemplateRegistry.layered(write("three/own.md").parent)
    assert {"mine", "yours", "own", "noir"} <= set(registry) and len(registry.folders) == 4
    assert registry.folders[1:] == tuple(map(Path, [*folders, tmp_path / "looks" / "three"]))
    monkeypatch.delenv("LLM_DIT_TEMPLATES")
    assert TemplateRegistry.layered().folders == TemplateRegistry.shipped().folders


def test_shipped_templates_are_in_the_package_or_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(llm_dit.prompts.templates, "files", lambda name: tmp_path / name)
    inside, beside = tmp_path / "llm_dit" / "shipped_templates" / "z_image", tmp_path / "templates" / "z_image"
    assert str(refusal(TemplateRegistry.shipped)).startswith(f"{inside.parent}: is not a folder")
    beside.mkdir(parents=True)
    assert TemplateRegistry.shipped().folders == (beside,)
    inside.mkdir(parents=True)
    assert TemplateRegistry.shipped().folders == (inside,)


def test_reload_reads_only_what_changed(write, monkeypatch):
    path = write("a.md", "---\ndescription: one\n---\n", time=1000)
    write("b.md", time=1000)
    registry, read, load = TemplateRegistry(path.parent), [], load_template
    monkeypatch.setattr(llm_dit.prompts.templates, "load_template", lambda path: read.append(path.stem) or load(path))
    assert registry.reload() == [] == read
    write("a.md", "---\ndescription: two\n---\n", time=1001)  # as long, and later
    assert registry.reload() == ["a"] == read
    write("a.md", "---\ndescription: three\n---\n", time=1001)  # at the same time, and longer
    assert registry.reload() == ["a"] and registry["a"].description == "three"
    path.unlink()
    write("c.md")
    assert registry.reload() == ["a", "c"] and list(registry) == ["b", "c"]


def test_a_file_that_breaks_is_reported_once_and_keeps_its_last_version(write):
    path = write("a.md", "---\ndescription: one\n---\n", time=1000)
    registry = TemplateRegistry(path.parent)
    write("a.md", "broken", time=1001)
    write("b.md", "broken too", time=1001)
    with pytest.warns(UserWarning) as given:
        assert registry.reload() == []
    kept, lost = sorted((str(one.message) for one in given), key=lambda said: "b.md" in said)
    assert kept.endswith("add it. The last good version is kept.") and lost.endswith("add it.")
    assert {one.filename for one in given} == {__file__}
    assert registry["a"].description == "one" and list(registry.errors) == ["a", "b"]
    assert "front matter is missing" in str(refusal(registry.__getitem__, "b"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.reload() == []
    write("a.md", "---\ndescription: two\n---\n", time=1002)
    assert registry.reload() == ["a"] and list(registry.errors) == ["b"]
    assert repr(registry) == "TemplateRegistry(1 templates in 1 categories, 1 broken: b)"


def test_a_registry_as_a_mapping(write):
    for name in ("x/a.md", "x/two words.md", "y/b.md"):
        write(name)
    registry = TemplateRegistry(write("y/b.md").parent.parent)
    assert registry.a is registry["a"] and not hasattr(registry, "c") and not hasattr(registry, "_a")
    with pytest.raises(AttributeError, match="no attribute and no template 'c'"):
        registry.c  # noqa: B018
    assert {"a", "b", "search"} <= set(dir(registry)) and "two words" not in dir(registry)
    assert registry._ipython_key_completions_() == ["a", "b", "two words"] and 3 not in registry
    assert {category: [t.name for t in them] for category, them in registry.by_category().items()} == {
        "x": ["a", "two words"],
        "y": ["b"],
    }
    assert repr(registry) == "TemplateRegistry(3 templates in 2 categories)"


def test_names_that_are_nearly_right(write):
    for n in range(12):
        write(f"look_{n:02}.md")
    write("broken.md", "no")
    registry = TemplateRegistry(write("x.md").parent)
    assert len(registry.near("look")) == 5 and registry.near("look_03", 1) == ["look_03"]
    assert registry.near("brokn") == ["broken"] and registry.near("qqqq") == []
    error = refusal(registry.__getitem__, "look_033")
    assert isinstance(error, UnknownTemplateError) and str(error).count(" or ") == 2
    assert str(error).startswith("no template is called 'look_033': did you mean 'look_03' or ")
    assert "there are 13, such as look_00, " in str(refusal(registry.__getitem__, "qqqq"))
    assert str(refusal(registry.__getitem__, "q" * 100)).startswith(f"no template is called '{'q' * 60}': there")


def test_a_few_names_are_all_shown(write, tmp_path):
    (tmp_path / "none").mkdir()
    assert str(refusal(TemplateRegistry(tmp_path / "none").__getitem__, "q")).endswith("there are: none.")
    for n in range(10):
        write(f"look{n}.md")
    registry = TemplateRegistry(tmp_path / "looks")
    assert str(refusal(registry.__getitem__, "q")).endswith("there are: " + ", ".join(registry) + ".")
    write("look_a.md")
    registry.reload()
    first = ", ".join(f"look{n}" for n in range(10))
    assert str(refusal(registry.__getitem__, "q")).endswith(f"there are 11, such as {first}.")


def test_search_ranks_name_over_tags_over_description_over_text(write):
    write("1/neon.md")
    write("1/z_tag.md", "---\ntags: [Neon light]\n---\n")
    write("1/y_description.md", "---\ndescription: a neon sign\n---\n")
    write("1/x_text.md", "---\nmodel: x\n---\nneon\n")
    write("1/w_thought.md", "---\nthinking_content: neon\n---\n")
    write("1/v_example.md", "---\nexamples: [a neon cat]\n---\n")
    write("1/u_nothing.md")
    registry = TemplateRegistry(write("1/u_nothing.md").parent.parent)
    names = ["neon", "z_tag", "y_description", "v_example", "w_thought", "x_text"]
    assert [t.name for t in registry.search("NEON")] == names, "equal ones in the order of their names"
    assert [t.name for t in registry.search("neon sign")] == ["y_description"], "those that have all words, if any"
    assert [t.name for t in registry.search("neon qqqq")] == names, "or else those that have one"
    assert [t.name for t in registry.search("neon light")] == ["z_tag"] and registry.search("qqqq") == []
    write("1/sum.md", "---\ndescription: neon\ntags: [cat]\n---\n")
    registry.reload()
    assert [t.name for t in registry.search("neon cat")] == ["sum", "v_example"], "weights of the words are added"
    write("1/neon_name.md")
    registry.reload()
    assert [t.name for t in registry.search("neon")][:3] == ["neon", "neon_name", "z_tag"]


def test_a_name_counts_sixteen_and_a_part_of_it_eight():
    weight = llm_dit.prompts.templates._weight
    template = Template(
        name="Neon night",
        tags=("city",),
        category="photo",
        description="a sign",
        system_prompt="rain",
        thinking_content="wet",
        examples=("a cat",),
    )
    words = {"neon night": 16, "night": 8, "city": 8, "photo": 4, "sign": 4, "rain": 1, "wet": 1, "cat": 1, "dog": 0}
    assert {word: weight(word, template) for word in words} == words


def test_the_table(write):
    write(
        "x/a.md",
        "---\ndescription: d\ntags: [t, u]\nadd_think_block: true\nvariables: {v: w}\nexamples: [e]\n---\none {v}\n",
    )
    path = write("x/b.md")
    table = TemplateRegistry(path.parent).to_frame()
    assert table.index.name == "template" and list(table.index) == ["a", "b"]
    assert table.loc["a"].drop("path").to_dict() == dict(
        name="a", category="x", description="d", tags="t, u", words=2, think_block=True, variables="v", examples=1
    )
    assert not table.loc["b"].think_block and table.loc["b"].path == str(path)


def test_the_catalogue(write):
    write("y/a.md", "---\ndescription: first\ntags: [t, u]\nadd_think_block: true\n---\none two <b>\n")
    write("x/b.md", "---\nthinking_content: glow\n---\n")
    write("x/c.md")
    path = write("x/d.md", "broken")
    html = TemplateRegistry(path.parent.parent)._repr_html_()
    cells = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in html.split("<tr>")[1:]]
    assert cells[0] == ["category", "template", "description", "tags", "words", "think block"]
    assert [row[:2] for row in cells[1:]] == [["x", "b"], ["x", "c"], ["y", "a"], ["broken", "d"]]
    assert [row[4:] for row in cells[1:]] == [["0", "yes"], ["0", "–"], ["3", "empty"], ["", ""]]
    assert cells[3][2:4] == ["<details><summary>first</summary>one two &lt;b&gt;</details>", "t, u"]
    assert cells[1][2] == "<details><summary>b</summary></details>", "its name in place of a description"
    assert "d.md:1: front matter is missing" in cells[4][2] and str(path.parent) not in html


def test_the_schema_allows_more_keys():
    schema = front_matter_schema()
    assert schema["additionalProperties"] is True and "system_prompt" not in schema["properties"]
    assert "name" in json.loads(json.dumps(schema))["properties"]
    assert {"metadata", "path"}.isdisjoint(schema["properties"])
