"""What a real Jupyter kernel shows, which nbdev's test engine cannot tell."""

import nbformat
from browser import page, shot
from nbclient import NotebookClient
from nbconvert import HTMLExporter


def executed(*cells):
    """A notebook of these cells, run in a kernel of its own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook


def shown(*cells):
    """MIME types of what the last cell shows."""
    return {mime for output in executed(*cells).cells[-1].outputs for mime in output.get("data", {})}


def test_a_figure_is_seen_though_pyplot_was_never_used():
    assert "image/png" in shown(
        "from llm_dit import contact_sheet; from PIL import Image", "contact_sheet([Image.new('RGB', (8, 8))])"
    )


def test_the_catalogue_of_templates_is_a_table():
    assert "text/html" in shown("from llm_dit import TemplateRegistry", "TemplateRegistry.shipped()")


def test_exported_to_html_it_needs_neither_kernel_nor_network(tmp_path):
    notebook = executed(
        "from llm_dit import Playground, ZImagePipeline, token_heatmap\npipe = "
        "ZImagePipeline.from_pretrained('tiny', device='cpu')\nencoding = pipe.encoder.encode('a red circle')",
        "encoding",
        "token_heatmap(encoding)",
        "playground = Playground(pipe)\nseen = playground.snapshot()\nplayground.close()",
        "seen",
    )
    exported = tmp_path / "exported.html"
    exported.write_text(HTMLExporter().from_notebook_node(notebook)[0])
    with page() as offline:
        offline.context.set_offline(True)
        offline.goto(exported.as_uri())
        assert offline.locator("span[title*=norm]", has_text="circle").count() == 2, (
            "the token strips of the encoding and of the Playground"
        )
        assert (
            offline.evaluate("[...document.images].map(image => image.naturalWidth > 0 && image.width > 100)")
            == [True] * 3
        ), "the small heatmap of the encoding, the figure, and the Playground's"
        shot(offline, "exported")


def test_twenty_playgrounds_leave_nothing_behind():
    grown, comms, threads = map(
        float,
        executed(
            "import ctypes, gc, os, threading\nfrom comm import get_comm_manager\nfrom llm_dit import Playground, "
            "ZImagePipeline\npipe = ZImagePipeline.from_pretrained('tiny', device='cpu')\n"
            "def megabytes():\n    gc.collect()\n    ctypes.CDLL(None).malloc_trim(0)  # what is free counts for "
            "nothing\n    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6\n"
            "def once():\n    playground = Playground(pipe)\n    playground.wait()\n    playground.generate()\n    "
            "playground.wait()\n    playground.close()\n"
            "for _ in range(3): once()\nbefore, comms, threads = megabytes(), "
            "len(get_comm_manager().comms), threading.active_count()",
            "for _ in range(20): once()\nprint(megabytes() - before, len(get_comm_manager().comms) - "
            "comms, threading.active_count() - threads)",
        )
        .cells[-1]
        .outputs[0]
        .text.split(),
    )
    assert (comms, threads) == (0, 0) and grown < 50, (grown, comms, threads)
