"""How the site is built: ``make docs``. Every demo runs, and becomes a page of the gallery."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from gallery import OUT_VARIABLE, Pictures, by_lesson  # noqa: E402

import fedpriv  # noqa: E402

project = "fedpriv"
author = "the fedpriv contributors"
release = version = fedpriv.__version__
project_copyright = "the fedpriv contributors, MIT license"

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "offline",
]
exclude_patterns = ["_build", "gallery/**/*.ipynb", "gallery/**/*.py"]
templates_path = ["_templates"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
suppress_warnings = ["config.cache"]  # the scraper is an object, which sphinx cannot write into its cache

html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_context = {"rooms": {"adaptive", "labels", "malicious"}}  # have pages of their own
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_typehints = "none"  # the docstrings say the types
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# A copy, because sphinx-gallery would take the project in demos/flower_app for a chapter of its own.
DEMOS = ROOT / "docs" / "_build" / "demos"
DEMOS.mkdir(parents=True, exist_ok=True)
for path in [*(ROOT / "demos").glob("*.py"), ROOT / "demos" / "GALLERY_HEADER.rst"]:
    shutil.copy2(path, DEMOS)

os.environ[OUT_VARIABLE] = str(ROOT / "docs" / "_build" / "pictures")
sphinx_gallery_conf: dict[str, Any] = {
    "examples_dirs": [str(DEMOS)],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"/(?!_)\w+\.py",
    "within_subsection_order": by_lesson,
    "image_scrapers": (Pictures(),),
    "reset_modules": (),
    "reset_argv": "gallery.no_arguments",
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
    "download_all_examples": True,
    "capture_repr": (),  # attribute docstrings are not results
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "min_reported_time": 1,
    "copyfile_regex": "",
}

html_theme = "pydata_sphinx_theme"
html_title = "fedpriv"
html_static_path = ["_static"]
html_css_files = ["fedpriv.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": True,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "use_edit_page_button": False,
}
