"""What a cell exports, as Markdown for Sphinx: signature, docstring, parameter table from docments, link to the
source.
"""

import ast
import re
from importlib import import_module
from types import ModuleType
from typing import Any

from fastcore.docments import docments


class Module:
    """An exported module: its objects, its source, and how each public thing in it is documented."""

    def __init__(self, name: str, source_url: str):
        self.name, self.source_url = name, source_url
        self.objects: ModuleType = import_module(name)
        self.lines = open(self.objects.__file__).read().splitlines()

    def entries(self, cell: str) -> list[str]:
        """Markdown for each public class, function and constant that a cell of the notebook defines."""
        return [entry for node in ast.parse(cell).body if (entry := self._entry(node, cell.splitlines()))]

    def _entry(self, node: ast.stmt, cell: list[str]) -> str | None:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            return self._class(node, cell)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            return self._function(node, node.name, "function", getattr(self.objects, node.name), cell)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            name, told = (
                getattr(getattr(node, "target", None) or node.targets[0], "id", "_"),
                _comment_above(cell, node.lineno),
            )
            return self._directive("data", name, told, 4) if told and not name.startswith("_") else None
        return None

    def _class(self, node: ast.ClassDef, cell: list[str]) -> str:
        cls = getattr(self.objects, node.name)
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not n.target.id.startswith("_")]
        if init:
            signature, rows = f"({_arguments(init)})", _rows(init, docments(cls))
        else:
            shown = [f"{ast.unparse(f)}" for f in fields]
            signature, rows = (
                (f"({', '.join(shown)})" if "__dataclass_fields__" in vars(cls) else ""),
                _field_rows(fields, cell),
            )
        methods = [
            self._function(n, f"{node.name}.{n.name}", _kind(n), vars(cls)[n.name], cell)
            for n in node.body
            if isinstance(n, ast.FunctionDef)
            and _kind(n) != "setter"
            and (not n.name.startswith("_") or n.name == "__call__")
        ]
        body = "\n\n".join(filter(None, [_text(ast.get_docstring(node)), _table(rows), self._link(node), *methods]))
        return self._directive(
            "exception" if issubclass(cls, BaseException) else "class", node.name + signature, body, 5
        )

    def _function(self, node: ast.FunctionDef, name: str, kind: str, found: Any, cell: list[str]) -> str:
        found = getattr(found, "fget", None) or getattr(found, "__func__", None) or found
        found = getattr(found, "__wrapped__", found)
        if kind == "property":
            return self._directive(
                kind, name, _text(ast.get_docstring(node) or _returned(node, cell)), 4, type=_annotation(node.returns)
            )
        body = "\n\n".join(
            filter(
                None, [_text(ast.get_docstring(node)), _table(_rows(node, docments(found))), self._link(node, name)]
            )
        )
        options = (
            {"classmethod": ""}
            if kind == "method" and any(getattr(d, "id", "") == "classmethod" for d in node.decorator_list)
            else {}
        )
        returned = f" -> {_annotation(node.returns)}" if node.returns else ""
        return self._directive(kind, f"{name}({_arguments(node)}){returned}", body, 4, **options)

    def _directive(self, kind: str, signature: str, body: str | None, fence: int, **options: str) -> str:
        told = "".join(
            f":{name}: {value}".rstrip() + "\n"
            for name, value in {"module": self.name, **options}.items()
            if value or name in ("classmethod",)
        )
        mark = ":" * fence
        return f"{mark}{{py:{kind}}} {' '.join(signature.split())}\n{told}\n{body or ''}\n{mark}"

    def _link(self, node: ast.stmt, name: str = "") -> str:
        line = self._line(node, name)
        return f"[source]({self.source_url}#L{line}){{.source-link}}" if line else ""

    def _line(self, node: ast.stmt, name: str = "") -> int | None:
        """Where a definition stands in the module."""
        word = "class" if isinstance(node, ast.ClassDef) else "def"
        pattern = re.compile(rf"^\s*{word} {node.name}\b")
        found = [i for i, line in enumerate(self.lines, 1) if pattern.match(line)]
        if len(found) > 1 and "." in name:  # a method: the first one after its class
            start = next(i for i, line in enumerate(self.lines, 1) if re.match(rf"class {name.split('.')[0]}\b", line))
            found = [i for i in found if i > start] or found
        return found[0] if found else None


def _kind(node: ast.FunctionDef) -> str:
    names = {getattr(d, "id", getattr(d, "attr", "")) for d in node.decorator_list}
    return "setter" if "setter" in names else "property" if names & {"property", "cached_property"} else "method"


def _arguments(node: ast.FunctionDef) -> str:
    """Arguments as written, without `self`, `cls`, and the quotes of types that are not known yet."""
    arguments = re.sub(r": '([^']*)'", r": \1", ast.unparse(node.args))
    return re.sub(r"^(self|cls)(: [^,]+)?(, |$)", "", arguments)


def _rows(node: ast.FunctionDef, comments: dict) -> list[tuple[str, str, str, str]]:
    """Name, type, default and description of each parameter, and of what is returned."""
    a = node.args
    positional = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(positional) - len(a.defaults)) + list(a.defaults) + list(a.kw_defaults)
    rows = [
        (x.arg, x.annotation, d, comments.get(x.arg))
        for x, d in zip([*positional, *a.kwonlyargs], defaults)
        if x.arg not in ("self", "cls")
    ]
    rows += [
        (f"{star}{x.arg}", x.annotation, None, comments.get(x.arg))
        for star, x in (("*", a.vararg), ("**", a.kwarg))
        if x
    ]
    made = [
        (f"`{name}`", f"`{_annotation(kind)}`" if kind else "", _code(default), _text(told))
        for name, kind, default, told in rows
    ]
    if comments.get("return"):
        made.append(
            ("*returns*", f"`{_annotation(node.returns)}`" if node.returns else "", "", _text(comments["return"]))
        )
    return made


def _field_rows(fields: list[ast.AnnAssign], cell: list[str]) -> list[tuple[str, str, str, str]]:
    """The same of the fields of a dataclass, or the members of a Protocol."""

    def told(field):
        return cell[field.end_lineno - 1].partition(" # ")[2]

    return [(f"`{f.target.id}`", _code(f.annotation), _code(f.value), _text(told(f))) for f in fields]


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    if not rows:
        return ""
    head = ["| Parameter | Type | Default | Description |", "|---|---|---|---|"]
    return (
        ":::{container} parameters\n"
        + "\n".join(
            head
            + ["| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in row) + " |" for row in rows]
        )
        + "\n:::"
    )


def _code(node: ast.expr | None) -> str:
    return f"`{ast.unparse(node)}`" if node is not None else ""


def _annotation(node: ast.expr | None) -> str:
    """A type as written, without the quotes of one that is not known yet."""
    return (
        ""
        if node is None
        else node.value
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        else ast.unparse(node)
    )


def _returned(node: ast.FunctionDef, cell: list[str]) -> str:
    """The comment behind the arrow of a property."""
    return cell[node.lineno - 1].partition(" # ")[2]


def _comment_above(cell: list[str], line: int) -> str:
    """The `#:` comment over a constant."""
    above = cell[line - 2] if line > 1 else ""
    return _text(above.removeprefix("#:").strip()) if above.startswith("#:") else ""


def _text(text: str | None) -> str:
    """A docstring or comment as Markdown: what looks like HTML or mathematics is neither, except in `code`."""
    parts = re.split(r"(`[^`]*`)", text or "")
    return "".join(
        part if i % 2 else part.replace("<", "&lt;").replace("$", r"\$").replace("*", r"\*")
        for i, part in enumerate(parts)
    )
