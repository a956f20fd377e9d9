"""Trained weights: the file format, the registry of names, downloads, the hub, and importers of other formats."""

from vggnet.lazy import attach as _attach

__getattr__ = _attach(__name__, __file__)
