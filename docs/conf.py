"""Settings of the documentation site: `sphinx-build -W docs build/site` runs every page and writes the site."""

import fastgd

project = "fastgd"
author = "the fastgd developers"
copyright = "the fastgd developers, BSD-3-Clause"
version = release = fastgd.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["jupyter_execute"]
html_theme = "furo"
html_title = f"fastgd {release}"

# A page is MyST Markdown. Its blocks ```{code-cell}``` run when the site is built, and an error ends the build.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
