"""What a real Jupyter kernel shows, which nbdev's test engine cannot tell."""
import nbformat
from nbclient import NotebookClient


def shown(*cells):
    """MIME types of what the last cell shows, when the cells run in a kernel of their own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return {mime for output in notebook.cells[-1].outputs for mime in output.get("data", {})}


def test_a_figure_is_seen_though_pyplot_was_never_used():
    assert "image/png" in shown("from llm_dit import contact_sheet; from PIL import Image", "contact_sheet([Image.new('RGB', (8, 8))])")


def test_the_catalogue_of_templates_is_a_table():
    assert "text/html" in shown("from llm_dit import TemplateRegistry", "TemplateRegistry.shipped()")
