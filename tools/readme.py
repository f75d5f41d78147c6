"""Write README.md from nbs/index.ipynb: the same bytes every run.

python tools/readme.py [FOLDER]   (FOLDER: where to write instead of the project's root)
"""

import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
IMAGES = "nbs/index_files"


def readable(notebook):
    """Drop hidden cells and directives."""
    cells = []
    for cell in notebook.cells:
        directives = re.findall(r"^#\|\s*(.+)$", cell.source, flags=re.M)
        if "hide" in directives:
            continue
        cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        cells.append(cell)
    notebook.cells = cells
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def write_readme(folder):
    notebook = readable(nbformat.read(ROOT / "nbs/index.ipynb", as_version=4))
    markdown, resources = MarkdownExporter().from_notebook_node(
        notebook, {"output_files_dir": IMAGES, "unique_key": "index"}
    )
    note = "<!-- Written by tools/readme.py from nbs/index.ipynb: edit the notebook, then `make export`. -->\n\n"
    markdown = re.sub(
        r"\]\((?!https?:|nbs/|#)([^)]+\.ipynb)\)", r"](nbs/\1)", markdown
    )  # the README is a folder above the notebooks
    (folder / "README.md").write_text(note + re.sub(r"\n{3,}", "\n\n", markdown).strip() + "\n")
    shutil.rmtree(folder / IMAGES, ignore_errors=True)
    for name, data in resources["outputs"].items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


if __name__ == "__main__":
    write_readme(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
