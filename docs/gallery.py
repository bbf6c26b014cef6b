"""The demos as pages of the gallery: which order, which arguments, and where their pictures are found."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

OUT_VARIABLE = "FEDPRIV_OUT"
"""The environment variable with the folder that demos write into when they are started without ``--out``."""


class Pictures:
    """Give the pictures that a demo wrote to its page.

    Demos save figures as files, as they do for every user, instead of leaving them open. So we look for new
    files where sphinx-gallery's own scraper would look for open figures.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[str, int]] = set()

    def __repr__(self) -> str:
        return "Pictures()"

    def __call__(self, block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:  # noqa: ARG002
        """Copy what is new to where the page expects it."""
        from sphinx_gallery.scrapers import figure_rst

        names = []
        for path, place in zip(self._new(), block_vars["image_path_iterator"], strict=False):
            shutil.copy(path, place)
            names.append(place)
        return str(figure_rst(names, gallery_conf["src_dir"])) if names else ""

    def _new(self) -> list[Path]:
        folder = Path(os.environ[OUT_VARIABLE])
        files = sorted(folder.glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        new = [path for path in files if (path.name, path.stat().st_mtime_ns) not in self._seen]
        self._seen |= {(path.name, path.stat().st_mtime_ns) for path in new}
        return new


def no_arguments(gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:  # noqa: ARG001
    """Every demo runs with its defaults."""
    return []


LESSONS = (
    "pointers",
    "tutorial",
    "one_image",
    "batch",
    "optimise",
    "averaging",
    "noise",
    "broken_defenses",
    "text",
)
"""The demos of the course, in its order; the others follow by name."""


def by_lesson(filename: str) -> tuple[int, str]:
    """Sort key: the demos of the course first."""
    stem = Path(filename).stem
    return (LESSONS.index(stem) if stem in LESSONS else len(LESSONS), stem)
