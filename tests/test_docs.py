"""The documentation site: built offline without a warning, no dead link, no request to another host, and readable in a
browser.
"""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import ROOT, page, shot
from playwright.sync_api import expect

NBS = ROOT / "nbs"
OFFLINE = """
import ipaddress, sys
def refuse(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple) and not ipaddress.ip_address(args[1][0]).is_loopback:
        raise OSError(f"no network in this test: {args[1]}")
    if event == "socket.getaddrinfo" and args[0] not in (None, "", "localhost", "127.0.0.1", "::1", b"localhost"):
        raise OSError(f"no network in this test: {args[0]}")
sys.addaudithook(refuse)
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """`make docs`, with every Python process of it kept from the network."""
    hook = tmp_path_factory.mktemp("offline")
    (hook / "sitecustomize.py").write_text(OFFLINE)
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"PYTHONPATH": str(hook), "HF_HUB_OFFLINE": "1"}
    refused = subprocess.run(
        [sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert "no network in this test" in refused.stderr
    built = subprocess.run([sys.executable, ROOT / "tools/docs.py"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-6000:]
    return ROOT / "_docs"


class Links(HTMLParser):
    """Where a page leads, and which anchors it has."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.targets += [given[name] for name in ("href", "src") if given.get(name)]


def test_no_dead_link(site):
    pages = {path: Links(path.read_text()) for path in site.rglob("*.html")}
    dead, checked = [], 0
    for path, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            found, checked = (path.parent / unquote(parts.path)).resolve() if parts.path else path, checked + 1
            if not found.exists() or (
                parts.fragment and found in pages and unquote(parts.fragment) not in pages[found].anchors | {"top"}
            ):
                dead.append(f"{path.relative_to(site)} -> {target}")
    assert not dead, "\n".join(dead)
    assert checked > 1000


def test_no_page_loads_from_another_host(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"'](?:https?:)?//[^\"']*", path.read_text()
        )
        assert not loaded, f"{path.name}: {loaded[:3]}"


def test_reading_it_in_a_browser(site):
    """Search, a parameter table, a figure, a formula and the saved Playground, wide and narrow, without one request to
    another host.
    """
    requests = []
    with page(height=900) as tab:
        tab.on("request", lambda request: requests.append(request.url))
        tab.set_viewport_size({"width": 1280, "height": 900})

        def visit(name):
            tab.goto(f"file://{site / name}")

        visit("index.html")
        expect(tab.locator("article h1")).to_contain_text("llm-dit")
        shot(tab, "docs-home-1280")

        visit("search.html?q=format_prompt")
        expect(tab.locator("#search-results a").first).to_be_visible(timeout=20_000)
        found = [link.get_attribute("href") or "" for link in tab.locator("#search-results a").all()]
        assert any("prompts/02_formatter" in href for href in found)
        shot(tab, "docs-search-1280")

        for word, name in {
            "steering": "steer_an_embedding",
            "resume": "resume_a_sweep",
            "GGUF": "load_gguf_and_single_files",
        }.items():
            visit(f"search.html?q={word}")
            first = tab.locator("#search-results li a").first
            expect(first).to_be_visible(timeout=20_000)
            expect(first).to_have_attribute("href", re.compile(name))

        visit("encoding/27_encoder.html#llm_dit.encoding.encoder.TextEncoder.encode")
        method = tab.locator("dl.py.method").filter(
            has=tab.locator("dt[id='llm_dit.encoding.encoder.TextEncoder.encode']")
        )
        expect(method.locator("table th").first).to_have_text("Parameter")
        expect(method.locator("table")).to_contain_text("hidden_layer")
        expect(method.get_by_role("link", name="source")).to_have_attribute(
            "href", re.compile(r"github.*llm_dit/encoding/encoder\.py#L\d+")
        )
        shot(tab, "docs-encode-1280")

        visit("tutorials/reading_a_heatmap.html")
        heatmap = tab.locator(".cell_output img").first
        expect(heatmap).to_be_visible()
        assert heatmap.evaluate("img => img.naturalWidth") > 300
        shot(tab, "docs-heatmap-1280")

        visit("tutorials/playground.html")
        expect(tab.locator(".jupyter-widgets textarea").first).to_be_visible(timeout=20_000)
        expect(tab.locator(".jupyter-widgets img").first).to_be_visible()
        shot(tab, "docs-playground-1280")

        visit("research/rope_3d.html")
        expect(tab.locator("mjx-container svg").first).to_be_visible(timeout=20_000)

        tab.set_viewport_size({"width": 390, "height": 844})
        for name in ("index", "encoding/27_encoder", "tutorials/reading_a_heatmap", "research/sampling"):
            visit(f"{name}.html")
            tab.wait_for_load_state("load")
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is wider than a phone"
            shot(tab, f"docs-{Path(name).name}-390")

        visit("index.html")
        tab.emulate_media(color_scheme="dark")
        tab.evaluate("document.documentElement.dataset.theme = 'dark'")
        shot(tab, "docs-home-dark-390")
    others = [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    assert not others, others


def code_cells(notebook):
    return [
        "".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"
    ]


def parsed(cells):
    """The syntax of cells; magics are no Python."""
    return [node for cell in cells for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "", cell, flags=re.MULTILINE)))]


def used_names(cells):
    """Names in the cells that run as examples: all that export nothing."""
    return {
        getattr(node, "id", getattr(node, "attr", ""))
        for node in parsed(cell for cell in cells if not re.match(r"\s*#\|\s*exporti?\b", cell))
    }


def used_imports(cells):
    """Those that come from another module of ours."""
    imported = {
        alias.name
        for node in parsed(cells)
        if isinstance(node, ast.ImportFrom) and "llm_dit" in (node.module or "")
        for alias in node.names
    }
    return imported & used_names(cells)


def test_every_public_name_is_documented(site):
    """A docstring (a comment above, for a constant), a place in the reference, and a cell that uses it, here or where
    it is imported. There are no exceptions.
    """
    elsewhere = set().union(*(used_imports(code_cells(notebook)) for notebook in NBS.rglob("*.ipynb")))
    missing, count = [], 0
    for notebook in sorted(NBS.rglob("*.ipynb")):
        cells = code_cells(notebook)
        exports = next(
            (re.search(r"#\| default_exp ([\w.]+)", cell)[1] for cell in cells if "#| default_exp" in cell), None
        )
        if not exports:
            continue
        module = import_module(f"llm_dit.{exports}")
        html = (site / notebook.relative_to(NBS).with_suffix(".html")).read_text()
        source, used = Path(module.__file__).read_text(), elsewhere | used_names(cells)
        for name in module.__all__:
            thing, count = getattr(module, name), count + 1
            told = (
                thing.__doc__
                if inspect.isclass(thing) or inspect.isfunction(thing)
                else re.search(rf"^#:.*\n{name}\b", source, re.MULTILINE)
            )
            missing += [f"{module.__name__}.{name} has no docstring"] * (not told)
            missing += [f"{module.__name__}.{name} is not in the reference"] * (
                f'id="{module.__name__}.{name}"' not in html
            )
            missing += [f"{module.__name__}.{name} has no example"] * (name not in used)
    assert not missing, "\n".join(missing)
    assert count > 150
