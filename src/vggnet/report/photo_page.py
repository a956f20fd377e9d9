"""What the pages that show a photo and its classes have in common: those of `vgg serve` and `vgg export --to web`.

Each of the two has an index.html and a page.js of its own beside the code that writes or serves it.
"""

from pathlib import Path

PHOTOS = Path(__file__).parent / "photos"  # design, texts, bars, and the ways to give a photo
