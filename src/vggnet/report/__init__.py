"""Text, figures and pages, made from result objects and saved rows."""

from pathlib import Path

# Design, texts, and the ways to give a photo, which the pages of `vgg serve` and `vgg export --to web` share. Each of
# the two has an index.html and a page.js of its own.
PHOTOS = Path(__file__).parent / "photos"
