"""Where files are kept that can be made or fetched again."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """$VGGNET_CACHE, or a folder `vggnet` where the platform keeps caches ($XDG_CACHE_HOME or ~/.cache on Linux)."""
    given = os.environ.get("VGGNET_CACHE")
    if given:
        return Path(given).expanduser()
    if sys.platform == "win32":
        place = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        place = "~/Library/Caches"
    else:
        place = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(place).expanduser() / "vggnet"
