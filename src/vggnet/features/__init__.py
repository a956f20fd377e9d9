"""VGG as a feature network: layers by name, perceptual distances, retrieval, style transfer."""

import sys
import warnings
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """`vggnet.features(...)` was a function in version 0.1; it is `vggnet.extract_features` now."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        warnings.warn("vggnet.features(...) is now vggnet.extract_features(...)", DeprecationWarning, stacklevel=2)
        from vggnet.features.extractor import extract_features

        return extract_features(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
