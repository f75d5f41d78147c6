"""Build the documentation: notebooks become pages in `_build/docs`, Sphinx makes a site of them in `_docs`. No network
is used.

The structure is that of `nbs/sidebar.yml`. A notebook keeps its cells and outputs; what it exports is shown as
signature, parameter table and docstring, with the code folded away.
"""

import ast
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbdev.config import get_config
from sphinx.cmd.build import build_main

sys.path.insert(0, str(Path(__file__).parent))
from api import Module

ROOT = Path(__file__).parent.parent
NOTEBOOKS, PAGES, SITE, ASSETS = ROOT / "nbs", ROOT / "_build/docs", ROOT / "_docs", ROOT / ".venv/docs_assets"
WITH_WIDGETS = {"tutorials/playground.ipynb"}  # run here, since widget state is not kept in git
DIRECTIVE = re.compile(r"^\s*#\|\s*(.+?)\s*$", re.MULTILINE)


def sections(sidebar: Path = NOTEBOOKS / "sidebar.yml") -> dict[str, dict[str, list[str]]]:
    """Return the parts of each section, the home page aside, and the pages of each part.

    A section of pages has one part without a name; the reference has one for each package.
    """
    contents = yaml.safe_load(sidebar.read_text())["website"]["sidebar"]["contents"]
    return {part["section"]: _parts(part["contents"]) for part in contents if isinstance(part, dict)}


def _parts(contents: list) -> dict[str, list[str]]:
    parts = {"": [each for each in contents if isinstance(each, str)]}
    parts |= {each["section"]: each["contents"] for each in contents if isinstance(each, dict)}
    return {name: pages for name, pages in parts.items() if pages}


def names_of(module: Module) -> dict[str, str]:
    """Full names of the public things of a module, by the short name that prose uses."""
    return {name: f"{module.name}.{name}" for name in getattr(module.objects, "__all__", ())}


def page(notebook: Path, module: Module | None, known: dict[str, str]) -> nbformat.NotebookNode:
    """A notebook as myst-nb shall show it."""
    nb = nbformat.read(notebook, as_version=4)
    if str(notebook.relative_to(NOTEBOOKS)) in WITH_WIDGETS:
        NotebookClient(
            nb,
            timeout=120,
            kernel_name="python3",
            store_widget_state=True,
            resources={"metadata": {"path": str(notebook.parent)}},
        ).execute()
        for cell in (cell for cell in nb.cells if cell.cell_type == "code"):
            cell.outputs = [o for o in cell.outputs if o.output_type == "execute_result"]  # without progress bars
    nb.cells = [made for cell in nb.cells for made in _cells(cell, module, known)]
    return nb


def _cells(cell, module, known):
    """What becomes of a cell: nothing, itself, or what it exports and itself folded."""
    if cell.cell_type == "markdown":
        return [nbformat.v4.new_markdown_cell(linked(cell.source, known), id=cell.id)]
    said = {word.split()[0].rstrip(":"): word for word in DIRECTIVE.findall(cell.source)}
    cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
    if "default_exp" in said or "hide" in said or (not cell.source and not cell.outputs):
        return []
    if said.keys() & {"export", "exporti", "exports"}:
        cell.metadata["tags"] = ["hide-input"]
        entries = [] if "exporti" in said else module.entries(cell.source)
        return [*(nbformat.v4.new_markdown_cell(entry) for entry in entries), cell]
    if said.get("echo") == "echo: false":
        cell.metadata["tags"] = ["remove-input"]
    cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
    return [cell]


def linked(text: str, known: dict[str, str]) -> str:
    """Prose in which a public name in backticks leads to where it is documented."""

    def link(match):
        target = known.get(match[1])
        return f"{{py:obj}}`{match[1]} <{target}>`" if target else match[0]

    parts = re.split(r"(^```.*?^```|\[[^\]]*\]\([^)]*\)|^#.*?$|^\|.*?$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if i % 2 else re.sub(r"(?<![`}])`([A-Za-z_][\w.]*)`(?!`)", link, part) for i, part in enumerate(parts)
    )


def contents(pages: list[str], hidden: bool = False) -> str:
    """A table of contents of pages that Sphinx builds."""
    entries = "\n".join("/" + page.rpartition(".")[0] for page in pages)
    return f"```{{toctree}}\n:maxdepth: 1\n{':hidden:' if hidden else ''}\n\n{entries}\n```\n"


def overview(title: str, parts: dict[str, list[str]]) -> str:
    """Return a page that leads to others, each with its subtitle; above the modules of a package its docstring."""
    texts = [f"# {title}"]
    for name, pages in parts.items():
        if name:
            texts += [f"## {name}", package_docstring(name)]
        texts += ["\n".join(map(entry, pages)), contents(pages, hidden=True)]
    return "\n\n".join(texts)


def entry(page: str) -> str:
    """Return the line of a list that leads to a page."""
    name, subtitle = heading(NOTEBOOKS / page)
    if subtitle[1:2].islower():
        subtitle = subtitle[0].lower() + subtitle[1:]
    return f"- [{name}]({page})" + (f": {subtitle}" if subtitle else "")


def package_docstring(name: str) -> str:
    """Return what a package of `llm_dit` says about itself."""
    source = (ROOT / "llm_dit" / name / "__init__.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def heading(notebook: Path) -> tuple[str, str]:
    """Title and subtitle of a notebook: `# title`, and below it `> subtitle`."""
    first = next(cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "markdown")
    return re.search(r"^# (.+)", first)[1], (re.search(r"^> (.+)", first, re.MULTILINE) or ["", ""])[1]


def write_pages() -> None:
    """Fill `_build/docs`."""
    shutil.rmtree(PAGES, ignore_errors=True)
    config = get_config(path=ROOT)
    source_url = f"{config.git_url}/blob/{config.branch}/llm_dit"
    exported = {notebook: name for notebook in NOTEBOOKS.rglob("*.ipynb") if (name := default_exp(notebook))}
    modules = {
        notebook: Module(f"llm_dit.{name}", f"{source_url}/{name.replace('.', '/')}.py")
        for notebook, name in exported.items()
    }
    known = {short: full for module in modules.values() for short, full in names_of(module).items()}
    structure = sections()
    for name in ["index.ipynb", *(page for parts in structure.values() for pages in parts.values() for page in pages)]:
        target = PAGES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".ipynb"):
            nbformat.write(page(NOTEBOOKS / name, modules.get(NOTEBOOKS / name), known), target)
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text().replace("](nbs/", "](").replace("```mermaid", "```text")
        text = text.replace("](docs/", f"]({config.git_url}/blob/{config.branch}/docs/")
        (PAGES / name.lower()).write_text(text)
    tops = []
    for title, parts in structure.items():
        pages = [page for pages in parts.values() for page in pages]
        if len(pages) == 1:
            tops += pages
            continue
        tops.append(f"{title.lower()}-pages.md")
        (PAGES / tops[-1]).write_text(overview(title, parts))
    tops += ["changelog.md", "contributing.md"]
    home = nbformat.read(PAGES / "index.ipynb", as_version=4)
    home.cells.append(nbformat.v4.new_markdown_cell(contents(tops, hidden=True)))
    nbformat.write(home, PAGES / "index.ipynb")


def default_exp(notebook: Path) -> str | None:
    """The module that a notebook exports."""
    found = re.search(r'"#\| default_exp ([\w.]+)', notebook.read_text())
    return found and found[1]


def main() -> int:
    """Write the pages, then the site; warnings are errors."""
    os.environ["LLM_DIT_DOCS_ASSETS"] = str(ASSETS)
    write_pages()
    made = ROOT / "_build/site/html"
    shutil.rmtree(made.parent, ignore_errors=True)
    failed = build_main(
        [
            "-q",
            "-W",
            "--keep-going",
            "-E",
            "-b",
            "html",
            "-c",
            str(ROOT / "docs"),
            "-d",
            str(ROOT / "_build/doctrees"),
            str(PAGES),
            str(made),
        ]
    )
    if not failed:
        shutil.rmtree(SITE, ignore_errors=True)
        (made / "_static/webpack-macros.html").unlink(missing_ok=True)  # a template of the theme, not a page
        shutil.move(made, SITE)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
