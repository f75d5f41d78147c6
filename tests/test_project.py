"""The repository is consistent: what is generated is what is committed, and the package stands on its own."""

import ast
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from import_graph import edges, imported, in_guide, mermaid, module_name

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.side_by_side

EDGES = edges()
MODULES = {
    module_name(path, ROOT / "llm_dit"): path
    for path in sorted((ROOT / "llm_dit").rglob("*.py"))
    if not path.name.startswith("_")
}
#: Each imports only from those before it.
PACKAGES = ["core", "families", "prompts", "encoding", "generation", "views", "studies", "tiny", "cli"]


@pytest.fixture()
def copy(tmp_path):
    """The sources in a temporary folder, without weights."""
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "tiny_z_image")
    for name in ("nbs", "llm_dit", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(*command, cwd):
    env = {
        k: v for k, v in os.environ.items() if k != "IN_TEST"
    }  # nbdev's test engine sets it, and its commands then do nothing
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def differing(a, b, pattern):
    names = {p.relative_to(folder) for folder in (a, b) for p in folder.glob(pattern)}
    return sorted(
        str(n)
        for n in names
        if not ((a / n).exists() and (b / n).exists() and filecmp.cmp(a / n, b / n, shallow=False))
    )


def test_export_is_committed(copy):
    for module in (copy / "llm_dit").rglob("*.py"):
        if module.name != "__init__.py":
            module.unlink()
    run(Path(sys.executable).with_name("nbdev_export"), cwd=copy)
    assert not differing(copy / "llm_dit", ROOT / "llm_dit", "**/*.py"), "run `make export` and commit"


def test_notebooks_are_clean(copy):
    run("git", "init", "-q", cwd=copy)
    run(Path(sys.executable).with_name("nbdev_clean"), cwd=copy)
    assert not differing(copy / "nbs", ROOT / "nbs", "**/*.ipynb"), "run `make clean-notebooks` and commit"


def test_readme_is_the_index_notebook(tmp_path):
    run(sys.executable, ROOT / "tools/readme.py", tmp_path, cwd=ROOT)
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text(), "run `make export` and commit"
    assert not differing(tmp_path, ROOT, "nbs/index_files/*")


def passes_if_nothing_is_raised(source):
    """Whether code shows or notes an error that it expects, and goes on as well if there is none."""
    lines = ["pass" if re.match(r"\s*(%|!(?!=))", line) else line for line in source.splitlines()]
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Try) and node.handlers:
            calls = [n for handler in node.handlers for n in ast.walk(handler) if isinstance(n, ast.Call)]
            shown = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
            if shown and not any(
                isinstance(n, (ast.Raise, ast.Assert)) for last in node.orelse for n in ast.walk(last)
            ):
                return True
    return False


def test_expected_errors_are_demanded():
    """A cell that shows an error uses `llm_dit.core.testing.raises`, or fails in another way if nothing is raised."""
    assert passes_if_nothing_is_raised("try: int('x')\nexcept ValueError as e: print(e)")
    assert not passes_if_nothing_is_raised("try: int('x')\nexcept ValueError as e: print(e)\nelse: assert False")
    found = []
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in json.loads(notebook.read_text())["cells"]:
            source = "".join(cell["source"])
            exported = re.search(r"^#\|\s*export", source, re.MULTILINE)
            if cell["cell_type"] == "code" and not exported and passes_if_nothing_is_raised(source):
                found.append(f"{notebook.name} {cell['id']}")
    assert not found, f"use `with raises(error, part_of_the_message):` in {found}"


def test_notebooks_hold_no_machine_paths():
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        for prefix in ("/root/", "/home/", "/work/", "/tmp/"):
            assert prefix not in notebook.read_text(), f"{notebook.name} shows a path below {prefix}"


def test_each_promise_has_its_test():
    """What `nbs/promises.ipynb` and `SECURITY.md` name is there: files, notebooks, and functions in them."""
    text = "\n".join(
        "".join(cell["source"]) for cell in json.loads((ROOT / "nbs/promises.ipynb").read_text())["cells"]
    )
    rows = [line for line in text.splitlines() if line.startswith("| ") and line != "| promise | kept by |"]
    assert len(rows) >= 30 and all(re.search(r"\| `(tests|nbs)/[^|]+\|$", row) for row in rows), (
        "a promise without a test"
    )
    for name in set(re.findall(r"`((?:tests|nbs)/[^`]+)`", text + (ROOT / "SECURITY.md").read_text())):
        file, _, function = name.partition("::")
        assert (ROOT / file).exists(), f"{name}: there is no such file"
        if function:
            assert function in {
                node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
            }, f"{name}: there is no such test"


def notebook_of_each_module():
    """Place of the notebook, such as "encoding/03a", by the module that it exports."""
    found = {}
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        exported = re.search(r'"#\| default_exp ([\w.]+)', notebook.read_text())
        if exported:
            number, _, name = notebook.stem.partition("_")
            assert exported[1] == f"{notebook.parent.name}.{name}", f"{notebook} exports {exported[1]}"
            found[exported[1]] = number
    return found


def test_imports_are_seen():
    """Each kind of import statement is an edge."""
    lines = {
        "import llm_dit.studies.store": {"studies.store"},
        "from llm_dit.studies.store import Store": {"studies.store", "studies.store.Store"},
        "from .widgets import Lab": {"views.widgets", "views.widgets.Lab"},
        "from . import widgets": {"views", "views.widgets"},
        "from ..studies import store": {"studies", "studies.store"},
        "import json": set(),
    }
    for line, names in lines.items():
        [node] = ast.parse(line).body
        assert set(imported(node, "views.plots")) == names, line
    assert len(EDGES) > 100


def test_modules_form_no_circle():
    graph = {module: {b for (a, b), late in EDGES.items() if a == module and not late} for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


def test_packages_and_modules_import_from_earlier_ones_only():
    """Also inside functions, so that notebooks depend in the order in which they are read."""
    number = notebook_of_each_module()
    assert number.keys() == MODULES.keys() and {name.partition(".")[0] for name in MODULES} == {*PACKAGES}
    place = {module: (PACKAGES.index(module.partition(".")[0]), number[module]) for module in MODULES}
    upward = [f"{a} imports {b}" for a, b in EDGES if place[b] >= place[a]]
    assert not upward, upward


#: Lines that a reader takes in at once. A longer function says why in a comment above it; a cell with one class has
#: the limit of a class, since nbdev cannot split it.
FUNCTION, CLASS, MODULE, CELL = 40, 250, 450, 60


def length(node):
    return node.end_lineno - node.lineno + 1


def long_functions(source):
    """Yield functions and classes that are too long."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and length(node) > FUNCTION:
            first = min(each.lineno for each in [node, *node.decorator_list])
            above = lines[first - 2].strip()
            if not above.startswith("#") or above.startswith("# %%"):
                yield f"{node.name}: {length(node)} lines"
        elif isinstance(node, ast.ClassDef) and length(node) > CLASS:
            yield f"{node.name}: {length(node)} lines"


def long_cells(source):
    """Yield exported cells that are too long."""
    for cell in re.split(r"^# %% .*\n", source, flags=re.MULTILINE)[1:]:
        kinds = [type(node) for node in ast.parse(cell).body if not isinstance(node, (ast.Import, ast.ImportFrom))]
        if len(cell.strip().splitlines()) > CELL and kinds != [ast.ClassDef]:
            yield f"a cell of {len(cell.strip().splitlines())} lines, {cell.strip().splitlines()[0]}"


def test_a_reader_takes_it_in():
    found = []
    for name, path in MODULES.items():
        source = path.read_text()
        found += [f"{name}: {each}" for each in [*long_functions(source), *long_cells(source)]]
        found += [f"{name}: {source.count(chr(10))} lines"] * (source.count("\n") > MODULE)
        columns = [i for i, line in enumerate(source.splitlines(), 1) if len(line) > 119]
        listed = source.count("\n", 0, source.find("\n# %%", source.find("__all__") + 1)) + 1
        found += [f"{name}: line {i} is too long" for i in columns if i == 1 or i > listed]
    assert not found, found


#: What belongs to one family: its names, its hidden state, its limit, its width, classes of diffusers.
OF_ONE_FAMILY = re.compile(r"Z-Image|ZImage|z_image|(?<![\w.)\]])-2\b|\b512\b|\b2560\b")
#: Z-Image's own doors, which are two classes of three lines.
DOORS = {"encoding.z_image_encoder", "generation.z_image_pipeline"}


def test_one_family_is_named_in_its_record_only():
    """Chat forms are in `prompts`, Qwen3's among them; a family says which one it has."""
    found = []
    for module, path in MODULES.items():
        package = module.partition(".")[0]
        if package in ("families", "tiny") or module in DOORS:
            continue
        lines = [line for line in path.read_text().splitlines() if not line.startswith(("# %%", "# AUTOGENERATED"))]
        named = [line for line in lines if OF_ONE_FAMILY.search(line.replace("[0-2]", ""))]
        named += [line for line in lines if package != "prompts" and re.search("qwen", line, re.IGNORECASE)]
        found += [f"{module}: {line.strip()}" for line in named]
    assert not found, found


def test_the_picture_of_imports_is_true():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert in_guide(guide, mermaid(EDGES)) == guide, "run `make export` and commit"


def test_library_imports_no_development_tool():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {n.split(".")[0] for n in names} & {"nbdev", "fastcore", "execnb", "sphinx"}, module


def test_formatting_needs_no_torch():
    run(
        sys.executable,
        "-c",
        "import sys, llm_dit; from llm_dit import format_prompt; format_prompt('x'); assert 'torch' not in "
        "sys.modules",
        cwd=ROOT,
    )


def test_every_public_name_exists():
    run(
        sys.executable,
        "-c",
        "import llm_dit; [getattr(llm_dit, n) for n in llm_dit.__all__]; assert 'format_prompt' in dir(llm_dit)",
        cwd=ROOT,
    )


def test_help_is_fast():
    start = time.perf_counter()
    run(Path(sys.executable).with_name("llm-dit"), "--help", cwd=ROOT)
    alone = time.perf_counter() - start
    start = time.perf_counter()
    run(sys.executable, "-c", "import torch", cwd=ROOT)
    assert alone < time.perf_counter() - start, "--help takes longer than importing torch"


def test_wheel_works_outside_the_repository(tmp_path):
    """Build a wheel and run it in a venv of its own; what it depends on is lent from this environment."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "out", "build", "*.egg-info", "__pycache__")
    )
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source, cwd=tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        next(tmp_path.glob("*.whl")),
        cwd=tmp_path,
    )
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    lent = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "lent.pth").write_text(lent + "\n")
    where = run(python, "-c", "import llm_dit; print(llm_dit.__file__)", cwd=tmp_path).strip()
    assert where.startswith(str(site))
    out = run(tmp_path / "venv/bin/llm-dit", "smoke-test", cwd=tmp_path)
    assert out.count("ok ") == 6, out
    count = int(
        run(python, "-c", "from llm_dit import TemplateRegistry; print(len(TemplateRegistry.shipped()))", cwd=tmp_path)
    )
    assert count == len(list((ROOT / "templates").rglob("*.md"))) >= 150


def test_the_versions_that_are_tried():
    """pyproject.toml, what is checked before an import, and what `make compatibility` installs say the same.

    The versions of all other tests lie between.
    """
    from llm_dit.core.versions import SUPPORTED, _numbers

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name in ("gguf", "lora", "cache") for line in project["optional-dependencies"][name]]

    def pins(lines, sign):
        return {
            name.strip().lower(): re.sub(r"(\.0)+$", "", version.strip())
            for name, found, version in (line.partition("#")[0].partition(sign) for line in lines)
            if found
        }

    oldest, newest, locked = (
        pins((ROOT / f"requirements{name}").read_text().splitlines(), "==")
        for name in ("-oldest.txt", "-newest.txt", ".lock")
    )
    assert (
        pins((line.split(",")[0] for line in [*project["dependencies"], *extras]), ">=") == oldest
        and oldest.keys() == newest.keys()
    )
    assert {name: re.sub(r"(\.0)+$", "", first) for name, (first, _) in SUPPORTED.items()} == {
        name: oldest[name] for name in SUPPORTED
    }
    assert all(_numbers(oldest[name]) <= _numbers(locked[name]) <= _numbers(newest[name]) for name in oldest), (
        "write a newer requirements-newest.txt"
    )
    assert all(_numbers(newest[name]) < _numbers(beyond) for name, (_, beyond) in SUPPORTED.items())
