"""Print who imports whom in `llm_dit` as a Mermaid diagram: `python tools/import_graph.py`.

With `--write`, put it into CONTRIBUTING.md.

A box for each package, or for each module that is in none; an arrow from what imports to what is imported, dashed if
it is imported only when a function runs. GitHub and Mermaid's live editor draw it.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "llm_dit"


def module_name(file: Path, package: Path) -> str:
    """Return the dotted name of a file below the package: `encoding.encoder`."""
    parts = file.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    """Yield the dotted names below `llm_dit` that a statement may load, relative ones resolved."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        above = module.split(".")[: -node.level] if node.level else []
        start = ".".join([*(["llm_dit"] if node.level else []), *above, *([node.module] if node.module else [])])
        names = [start, *(f"{start}.{alias.name}" for alias in node.names)]
    yield from (name.removeprefix("llm_dit.") for name in names if name.startswith("llm_dit."))


def edges(package: Path = PACKAGE) -> dict[tuple[str, str], bool]:
    """Return (importing module, imported module) → whether it is imported only inside a function."""
    files = {module_name(file, package): file for file in package.rglob("*.py") if file.name != "_modidx.py"}
    found: dict[tuple[str, str], bool] = {}
    for module, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        late = {node for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for name in imported(node, module):
                    if name in files and name not in (module, ""):
                        found[module, name] = found.get((module, name), True) and node in late
    return found


def mermaid(found: dict[tuple[str, str], bool]) -> str:
    """Return a diagram with one box for each package."""
    boxes: dict[tuple[str, str], bool] = {}
    for (a, b), late in found.items():
        pair = a.partition(".")[0], b.partition(".")[0]
        if pair[0] != pair[1]:
            boxes[pair] = boxes.get(pair, True) and late
    lines = [f"  {a} {'-.->' if late else '-->'} {b}" for (a, b), late in sorted(boxes.items())]
    return "\n".join(["flowchart BT", *lines])


def in_guide(text: str, diagram: str) -> str:
    """Return the contributors' guide with another diagram."""
    before, _, rest = text.partition("```mermaid\n")
    return f"{before}```mermaid\n{diagram}\n```{rest.partition('```')[2]}"


if __name__ == "__main__":
    diagram = mermaid(edges())
    if "--write" in sys.argv:
        guide = PACKAGE.parent / "CONTRIBUTING.md"
        guide.write_text(in_guide(guide.read_text(encoding="utf-8"), diagram), encoding="utf-8")
    else:
        print(diagram)
