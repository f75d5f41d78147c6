"""The Playground as a user meets it: a real JupyterLab, Notebook 7 and Voila, in Chromium.

Screenshots are in `_build/browser/`.
"""

import re
import shutil
from statistics import median

import pytest
from browser import ROOT, page, run_all, server, shot, write_notebook
from playwright.sync_api import expect

TUTORIAL = ROOT / "nbs" / "tutorials" / "playground.ipynb"
COUNT, HEATMAP = "text=/of \\d+ tokens/", "img.widget-image"
STOPWATCH = """() => {  // milliseconds from a key press to a new token count and to a new, decoded heatmap
    const watch = window.watch = {start: 0, count: [], heatmap: []}
    const text = [...document.querySelectorAll('.widget-html-content')].find(e => /of \\d+ tokens/.test(e.textContent))
    const image = [...document.querySelectorAll('img.widget-image')].find(e => e.offsetParent)
    document.addEventListener('keydown', () => { watch.start = performance.now() }, true)
    new MutationObserver(() => watch.count.push(performance.now() - watch.start))
        .observe(text, {childList: true, subtree: true, characterData: true})
    image.addEventListener('load', () => watch.heatmap.push(performance.now() - watch.start))
}"""
WIDTHS = """() => { window.widths = new Set()
    const bar = [...document.querySelectorAll('.widget-hprogress .progress-bar')].at(-1)
    new MutationObserver(() => window.widths.add(bar.style.width)).observe(bar, {attributes: true}) }"""


@pytest.fixture()
def folder(tmp_path):
    """A folder with nothing but the Playground's notebook."""
    shutil.copy(TUTORIAL, tmp_path)
    return tmp_path


def count(page) -> int:
    return int(re.match(r"\d+", page.locator(COUNT).first.inner_text())[0])


def wait_for_count(page, number) -> None:
    page.wait_for_function(
        "n => [...document.querySelectorAll('.widget-html-content')].some(e => e.textContent.startsWith(n + ' of '))",
        arg=str(number),
        timeout=15_000,
    )


def source(page) -> str:
    return page.locator(HEATMAP).locator("visible=true").first.get_attribute("src")


def wait_for_heatmap(page, before) -> None:
    page.wait_for_function(
        "before => [...document.querySelectorAll('img.widget-image')].find(e => e.offsetParent)?.src !== before",
        arg=before,
        timeout=15_000,
    )


def opened(page) -> None:
    """Wait until the first prompt is shown with its heatmap."""
    page.locator(COUNT).first.wait_for(timeout=90_000)
    page.locator(HEATMAP).locator("visible=true").first.wait_for(timeout=30_000)


def area(page, name):
    return page.locator(".widget-textarea", has=page.get_by_text(name, exact=True)).locator("textarea")


def field(page, name):
    return page.get_by_label(name, exact=True)


def button(page, name):
    return page.get_by_role("button", name=name)


def test_playground_in_jupyterlab(folder):
    with server("lab", folder) as address, page() as lab:
        run_all(lab, address("playground.ipynb"))
        opened(lab)
        shot(lab, "1_opened")

        first, seen = count(lab), source(lab)
        template = lab.locator("input[list]").first
        template.fill("noir")
        template.press("Enter")
        wait_for_heatmap(lab, seen)
        assert (
            count(lab) > first + 50
            and "shadows" in area(lab, "system").input_value().lower() + area(lab, "thought").input_value().lower()
        )
        shot(lab, "2_template")
        template.fill("default")
        template.press("Enter")
        wait_for_count(lab, first)

        prompt, seen = area(lab, "prompt"), source(lab)
        prompt.press("End")
        prompt.type(" with 2 stars", delay=20)
        wait_for_count(lab, first + 4)
        wait_for_heatmap(lab, seen)
        shot(lab, "3_typed")

        button(lab, "text").click()
        area(lab, "thought").fill("they are yellow")
        lab.get_by_text("they are yellow").first.wait_for()  # in the formatted prompt
        shot(lab, "4_thought")
        button(lab, "off").click()
        prompt.fill("a red circle on a blue background")
        wait_for_count(lab, first)

        button(lab, "Pin as A").click()
        field(lab, "view").select_option("difference to A")
        prompt.fill("a red square on a blue background")
        lab.locator("ins", has_text="square").first.wait_for()
        lab.locator(".llm-dit-new", has_text="square").wait_for()
        lab.wait_for_timeout(500)
        shot(lab, "5_difference")
        button(lab, "Unpin").click()
        field(lab, "view").select_option("hidden states")

        lab.evaluate(WIDTHS)
        button(lab, "Generate").click()
        lab.get_by_text(re.compile(r"^seed 0, ")).first.wait_for(timeout=30_000)
        assert lab.evaluate("window.widths.size") >= 3, "the bar moved step by step"
        button(lab, "1: seed 0").wait_for()
        button(lab, "Generate").scroll_into_view_if_needed()
        shot(lab, "6_generated")

        field(lab, "width").select_option("256")
        field(lab, "height").select_option("256")
        field(lab, "steps").fill("50")
        field(lab, "steps").press("Tab")
        button(lab, "Generate").click()
        last = lab.locator(".jp-CodeCell").last  # meanwhile, the kernel answers
        before = last.locator(".jp-InputPrompt").inner_text()
        last.locator(".cm-content").click()
        lab.keyboard.press("Control+Enter")
        lab.wait_for_function(
            "before => /\\[\\d+\\]/.test((t => t === before ? '' : t)([...document.querySelectorAll('.jp-CodeCell "
            ".jp-InputPrompt')].at(-1).textContent))",
            arg=before,
            timeout=5_000,
        )
        assert button(lab, "Cancel").is_enabled(), "the cell was answered while the picture was still being made"
        button(lab, "Cancel").click()
        lab.get_by_text("cancelled").wait_for()
        shot(lab, "7_cancelled")

        prompt.fill("a yellow star on a black background")
        area(lab, "system").fill("Draw plain shapes.")
        name = lab.get_by_placeholder("name of a new template")
        name.fill("noir")
        button(lab, "Save as…").click()
        lab.locator("[role=alert]", has_text="exists already").wait_for()
        assert not (folder / "templates").exists(), "a shipped name is not taken without asking"
        name.fill("plain_shapes")
        button(lab, "Save as…").click()
        expect(template).to_have_value("plain_shapes")
        lab.get_by_text("plain_shapes.md").first.wait_for()
        assert "Draw plain shapes." in (folder / "templates" / "plain_shapes.md").read_text()
        shot(lab, "8_saved")

        button(lab, "1: seed 0").click()
        expect(area(lab, "prompt")).to_have_value("a red square on a blue background")
        expect(area(lab, "system")).to_have_value("")  # each field has a message of its own
        shot(lab, "9_history")


def test_typing_is_followed_at_once(folder):
    """A key press is followed by the new count within 250 ms and by the new heatmap within 500 ms (medians of 20)."""
    with server("lab", folder) as address, page() as lab:
        run_all(lab, address("playground.ipynb"))
        opened(lab)
        prompt, start = area(lab, "prompt"), count(lab)
        lab.evaluate(STOPWATCH)
        prompt.press("End")
        lab.wait_for_timeout(1000)
        for i in range(20):  # a digit is a token of its own
            seen = source(lab)
            prompt.press(str(i % 10))
            wait_for_count(lab, start + i + 1)
            wait_for_heatmap(lab, seen)
            lab.wait_for_timeout(200)
        times = lab.evaluate("window.watch")
        prompt.type("4" * 30, delay=15)  # fast: nothing but the last state counts
        wait_for_count(lab, start + 50)
        print(
            f"key to count {median(times['count']):.0f} ms, key to heatmap {median(times['heatmap']):.0f} ms, medians "
            f"of {len(times['count'])} and {len(times['heatmap'])}"
        )
        assert len(times["count"]) >= 20 and len(times["heatmap"]) >= 20
        assert median(times["count"]) < 250 and median(times["heatmap"]) < 500


@pytest.mark.parametrize("app", ["notebook", "voila"])
def test_playground_elsewhere(app, folder):
    with server(app, folder) as address, page() as other:
        if app == "voila":
            other.goto(address("playground.ipynb"))
        else:
            run_all(other, address("playground.ipynb"))
        opened(other)
        before = count(other)
        area(other, "prompt").fill("a red circle")
        wait_for_count(other, before - 4)
        assert count(other) == before - 4
        shot(other, f"{app}")


def test_playground_from_the_command_line(tmp_path):
    """`llm-dit playground` in an empty folder: its notebook runs, and what is saved goes to that folder."""
    with server("playground", tmp_path) as address, page() as lab:
        run_all(lab, address("playground.ipynb"))
        opened(lab)
        area(lab, "system").fill("Draw plain shapes.")
        lab.get_by_placeholder("name of a new template").fill("plain_shapes")
        button(lab, "Save as…").click()
        lab.get_by_text("plain_shapes.md").first.wait_for()
        assert (tmp_path / "templates" / "plain_shapes.md").exists()
        shot(lab, "from_the_command_line")


def test_catalogue_and_browser_of_templates(folder):
    write_notebook(
        folder / "catalogue.ipynb",
        "from llm_dit import TemplateRegistry, TemplateBrowser\nTemplateRegistry.shipped()",
        "TemplateBrowser()",
    )
    with server("lab", folder) as address, page() as lab:
        run_all(lab, address("catalogue.ipynb"))
        rows = lab.locator(".jp-OutputArea tr:visible")
        lab.locator(".jp-OutputArea input[type=search], .jp-OutputArea input").first.wait_for(timeout=60_000)
        everything = rows.count()
        lab.locator(".jp-OutputArea input").first.fill("woodcut")
        lab.wait_for_timeout(500)
        shot(lab, "catalogue")
        assert everything > 150 and 0 < rows.count() < 20
        lab.get_by_placeholder("words, for example: neon night").fill("noir")
        lab.locator("select option", has_text="noir").first.wait_for(state="attached")
        lab.get_by_placeholder("words, for example: neon night").scroll_into_view_if_needed()
        shot(lab, "template_browser")


HOSTILE = (
    """<script>window.hacked = 1</script>"><img src=x onerror="window.hacked = 1">'>"""
    """<svg onload='window.hacked = 1'></textarea></pre>"""
)
SHOWN = """
import warnings
warnings.simplefilter("ignore")
from llm_dit import Conversation, Playground, TemplateBrowser, TemplateRegistry, TokenStrip, ZImagePipeline
from llm_dit import format_prompt, token_heatmap
from IPython.display import display
hostile = {hostile!r}
pipe = ZImagePipeline.from_pretrained("tiny", device="cpu")
encoding = pipe.encoder.encode(hostile, system=hostile)
registry = TemplateRegistry("looks")
display(Conversation.from_prompt(hostile, hostile, hostile, hostile), format_prompt(hostile, system=hostile))
display(encoding, encoding.norms(), registry, token_heatmap(encoding), TokenStrip(encoding), TemplateBrowser(registry))
"""


def test_no_text_runs_in_the_page(folder):
    """Prompts, template texts, template names and errors with scripts in them, in every repr and widget of a real
    JupyterLab: none runs.
    """
    looks = folder / "looks"
    looks.mkdir()
    quoted = HOSTILE.replace("'", "''")
    (looks / "hostile.md").write_text(
        f"---\nname: hostile\ndescription: '{quoted}'\ncategory: '{quoted}'\ntags: ['{quoted}']\n---\n{HOSTILE}\n"
    )
    (looks / "<img src=x onerror=window.hacked=1>.md").write_text("---\nname: named\n---\nA look.\n")
    (looks / """"><img src=x onerror=window.hacked=1>.md""").write_text("---\nname: quoted\n---\nA look.\n")
    (looks / "broken.md").write_text(f"---\nname: broken\nadd_think_block: '{quoted}'\n---\n")
    write_notebook(
        folder / "hostile.ipynb",
        SHOWN.format(hostile=HOSTILE),
        "playground = Playground(pipe, hostile, registry=registry)\nplayground",
    )
    with server("lab", folder) as address, page(height=2600) as lab:
        asked = []
        lab.on("request", lambda request: asked.append(request.url))
        run_all(lab, address("hostile.ipynb"))
        opened(lab)
        area(lab, "system").fill(HOSTILE)
        area(lab, "prompt").fill(HOSTILE + " again")
        lab.get_by_text("again").first.wait_for(timeout=30_000)
        template = lab.locator("input[list]").first
        for name in (
            "hostile",
            HOSTILE,
        ):  # a template with hostile texts, and no template of a hostile name, of which an error tells
            template.fill(name)
            template.press("Enter")
        lab.locator("[role=alert]", has_text="hacked").first.wait_for(timeout=30_000)
        button(lab, "Generate").click()
        lab.get_by_text(re.compile(r"^seed 0, ")).first.wait_for(timeout=60_000)
        lab.wait_for_timeout(500)
        shot(lab, "hostile")
        outputs = lab.locator(".jp-OutputArea-output")
        assert outputs.count() >= 8 and sum("window.hacked" in text for text in outputs.all_inner_texts()) >= 5, (
            "the texts are there to be read"
        )
        assert lab.evaluate("window.hacked") is None, "no script ran"
        made = (
            "[...document.querySelectorAll('.jp-OutputArea-output')].flatMap(e => [...e.querySelectorAll('script, "
            "img[src=x], img[onerror], svg[onload]')]).map(e => e.outerHTML)"
        )
        assert lab.evaluate(made) == [] and not [url for url in asked if url.endswith("/x")]
        lab.evaluate(
            "document.querySelector('.jp-OutputArea-output').insertAdjacentHTML('beforeend', '<img src=x "
            'onerror="window.hacked = 1">\')'
        )
        lab.wait_for_function("window.hacked === 1", timeout=10_000)  # and the page would have let it run


def test_a_kernel_restarted_under_an_open_playground(tmp_path):
    """The old widgets are dead but do no harm, and running the notebook again gives a Playground that works."""
    write_notebook(
        tmp_path / "playground.ipynb",
        "from llm_dit import Playground, ZImagePipeline\nplayground = "
        "Playground(ZImagePipeline.from_pretrained('tiny', device='cpu'))\nplayground",
    )

    def count(lab):
        return lab.evaluate(
            "() => Number(([...document.querySelectorAll('.widget-html-content b')].map(b => b.textContent).find(t => "
            "/^\\d+$/.test(t))) ?? -1)"
        )

    def opened(lab):
        lab.wait_for_function(
            "() => [...document.querySelectorAll('.widget-html-content b')].some(b => /^\\d+$/.test(b.textContent))",
            timeout=60_000,
        )

    with server("lab", tmp_path) as address, page() as lab:
        run_all(lab, address("playground.ipynb"))
        opened(lab)
        before = count(lab)
        lab.evaluate(
            "() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart(); return true }"
        )
        lab.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
            timeout=60_000,
        )
        lab.locator("textarea").first.fill("typed into a dead widget")
        lab.wait_for_timeout(300)
        lab.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); return true }")
        lab.wait_for_function(
            "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(prompt => "
            "/\\[\\d+\\]/.test(prompt.textContent))",
            timeout=60_000,
        )
        opened(lab)
        assert count(lab) == before, "the prompt it begins with, not what was typed before"
        lab.locator("textarea").first.fill("a red star")
        lab.wait_for_function(
            "before => { const now = [...document.querySelectorAll('.widget-html-content b')].map(b => "
            "b.textContent).find(t => /^\\d+$/.test(t)); return now && Number(now) < before }",
            arg=before,
            timeout=30_000,
        )
        shot(lab, "kernel_restarted")
