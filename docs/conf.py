"""Sphinx settings for the site that `make docs` builds; everything it shows is local."""

import os
from pathlib import Path

from llm_dit import __version__

project = "llm-dit"
author = "The llm-dit authors"
release = __version__
copyright = "2026 onwards, The llm-dit authors"
extensions = ["myst_nb", "sphinx.ext.mathjax"]

nb_execution_mode = "off"  # outputs are those that the tests ran
nb_ipywidgets_js = {"require.min.js": {}, "embed-amd.js": {}}
nb_code_prompt_show = "Source"
nb_code_prompt_hide = "Source"
myst_enable_extensions = ["attrs_inline", "attrs_block", "dollarmath", "colon_fence"]
myst_heading_anchors = 4
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"
suppress_warnings = ["myst.header"]  # a page may begin below its title

html_theme = "pydata_sphinx_theme"
html_title = "llm-dit"
html_context = {"default_mode": "auto"}
html_static_path = ["_static", str(Path(os.environ["LLM_DIT_DOCS_ASSETS"]).resolve())]
html_css_files = ["site.css"]
mathjax_path = "tex-svg.js"  # SVG needs no fonts
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
