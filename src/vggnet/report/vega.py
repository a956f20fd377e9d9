"""The program that draws a report's charts, to be written into the page: Vega, Vega-Lite and Vega-Embed."""

from contextlib import suppress
from importlib.metadata import version

from vggnet.errors import StorageError
from vggnet.files import cache_folder, write_text


def vega_script() -> str:
    """About 900 kB of JavaScript that reaches for no network; kept in the cache, as it takes seconds to make."""
    path = cache_folder() / f"vega-{version('vl-convert-python')}.js"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    assert "</script" not in script.lower()
    with suppress(StorageError):  # made again next time
        write_text(path, script)
    return script
