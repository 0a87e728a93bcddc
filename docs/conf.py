"""Settings of the documentation site: `sphinx-build -W docs build/site` runs every page and writes the site."""

import os
import pathlib
import shutil
import sys
import tempfile

import fastgd

HERE = pathlib.Path(__file__).parent
EXAMPLES, COPIES = HERE.parent / "examples", HERE / "examples"
sys.path.insert(0, str(HERE / "extensions"))
os.environ["MATPLOTLIBRC"] = str(HERE / "style" / "matplotlibrc")  # for the kernels that run the pages

project = "fastgd"
author = "the fastgd developers"
copyright = "the fastgd developers, BSD-3-Clause"
version = release = fastgd.__version__

extensions = ["myst_nb", "sphinx_copybutton", "mathml", "names"]
exclude_patterns = ["extensions"]
templates_path = []
html_theme = "furo"
html_title = "fastgd"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
copybutton_exclude = ".linenos, .gp, .go"

# A page is MyST Markdown. Its blocks ```{code-cell}``` run when the site is built, and an error ends the build. What
# has run before is taken from a cache beside the site; `-D nb_execution_mode=force` runs all of it.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_excludepatterns = ["examples/*"]  # what they show is stored, and tests/test_examples.py runs them
nb_execution_timeout = 400
nb_merge_streams = True
nb_ipywidgets_js = {}  # they would be fetched from the network
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Publishers refuse programs, and a DOI is made to last.
linkcheck_ignore = [r"https://doi\.org/"]
linkcheck_retries = 3


def copy_notebooks(*_):
    """Sphinx reads pages from its own folder only. Another build may read the copies, so those that are right stay."""
    COPIES.mkdir(exist_ok=True)
    for copy in COPIES.iterdir():
        if not (EXAMPLES / copy.name).exists():
            copy.unlink(missing_ok=True)
    for notebook in EXAMPLES.glob("*.ipynb"):
        copy = COPIES / notebook.name
        if not copy.exists() or copy.read_bytes() != notebook.read_bytes():
            with tempfile.TemporaryDirectory(dir=HERE.parent) as folder:
                os.replace(shutil.copy2(notebook, folder), copy)


def setup(app):
    app.connect("config-inited", copy_notebooks)
