"""What a network is and why it predicts a class: layer tables, attributions, top activations, feature visualization."""

from vggnet.lazy import attach as _attach

__getattr__ = _attach(__name__, __file__)


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])
