"""A real Jupyter in a real browser: start a server on a copy of a notebook, open it, run all, keep screenshots in
`_build/browser/`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # as long as Playwright waits for everything else: no test measures time with it

ROOT = Path(__file__).parent.parent
SHOTS = ROOT / "_build" / "browser"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
IDLE = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.sessionContext?.session?.kernel?.status === 'idle'
}"""


def chromium() -> str:
    """The browser: what CHROMIUM names, or a Chromium or Chrome of the system."""
    found = next(
        filter(
            None,
            map(
                shutil.which,
                filter(None, [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]),
            ),
        ),
        None,
    )
    assert found, (
        "No Chromium found: install it (Debian: apt-get install chromium), or set CHROMIUM to the path of one"
    )
    return found


@contextmanager
def page(height: int = 1300):
    """An empty page of a fresh browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield browser.new_page(viewport={"width": 1500, "height": height})
        finally:
            browser.close()


@contextmanager
def server(app: str, folder: Path):
    """`lab`, `notebook` or `voila`, serving `folder`, or `llm-dit playground` typed in it.

    Gives a function from a notebook's name to its address.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    own = folder / ".jupyter"
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {
        f"JUPYTER_{name}_DIR": str(own / name) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    env |= {
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "IPYTHONDIR": str(own / "ipython"),
        "HF_HUB_OFFLINE": "1",
    }
    options = {"voila": [f"--port={port}", "--no-browser", "--token=secret"]}.get(
        app,
        [
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--ip=127.0.0.1",
            "--port-retries=0",
            "--IdentityProvider.token=secret",
            "--expose-app-in-browser",
            f"--notebook-dir={folder}",
        ],
    )
    command = [
        sys.executable,
        "-m",
        {"lab": "jupyterlab"}.get(app, app),
        *options,
        *([str(folder)] if app == "voila" else []),
    ]
    if app == "playground":
        typed = [
            "playground",
            "--no-browser",
            "--port",
            str(port),
            "--",
            "--IdentityProvider.token=secret",
            "--expose-app-in-browser",
        ]
        command = [sys.executable, "-c", "from llm_dit.cli.commands import main; main()", *typed]
    log = (folder / f"{app}.log").open("w")
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    path = {"lab": "lab/tree/", "playground": "lab/tree/", "notebook": "notebooks/", "voila": "voila/render/"}[app]
    try:
        _wait_for(f"http://127.0.0.1:{port}/", process, folder / f"{app}.log")
        yield lambda name: f"http://127.0.0.1:{port}/{path}{name}?token=secret"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


def _wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float = 60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urlopen(url, timeout=5).close()
            return
        except URLError as e:
            if hasattr(e, "code"):  # an answer, though it asks for a token
                return
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook of code cells."""
    made = [
        dict(cell_type="code", id=f"c{i}", metadata={}, source=cell, outputs=[], execution_count=None)
        for i, cell in enumerate(cells)
    ]
    path.write_text(
        json.dumps(
            dict(
                cells=made,
                metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python")),
                nbformat=4,
                nbformat_minor=5,
            )
        )
    )


def run_all(page: Page, address: str) -> None:
    """Open a notebook in JupyterLab or Notebook 7, and run it once its kernel is idle."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_function(IDLE, timeout=60_000)
    page.evaluate(
        "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); return true }"
    )  # its promise has no timeout


def shot(page: Page, name: str) -> None:
    """Keep a screenshot."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")
