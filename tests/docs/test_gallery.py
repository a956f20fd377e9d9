"""Every picture has its command."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SUFFIXES = (".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp")
GALLERY = runpy.run_path(str(ROOT / "scripts" / "gallery.py"))


def test_every_picture_is_in_the_gallery():
    """Oracle: the files of docs/ and experiments/."""
    found = [path for folder in ("docs", "experiments") for path in (ROOT / folder).rglob("*")]
    files = {path.relative_to(ROOT).as_posix() for path in found if path.suffix.lower() in SUFFIXES}
    listed = [picture.file for picture in GALLERY["PICTURES"]]
    assert sorted(listed) == sorted(files)


def test_the_page_is_what_the_script_writes():
    """Oracle: the script."""
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == GALLERY["page"]()
