"""Optional packages: imported where they are there, and named with the pip command where they are not."""

import json
import sys

import pytest

from vggnet.errors import MissingDependencyError, VGGError, one_line, require


def test_a_package_that_is_there_is_imported():
    """Oracle: the module itself."""
    assert require("json", "report") is json


def test_a_package_that_is_missing_is_named_with_the_command():
    """Oracle: the contract: one line, an error of the user's that is an ImportError too."""
    with pytest.raises(
        MissingDependencyError, match=r"^nowhere is not installed; pip install 'vggnet\[report\]'$"
    ) as error:
        require("nowhere.inside", "report")
    assert isinstance(error.value, VGGError)
    assert isinstance(error.value, ImportError)


def test_a_package_that_is_broken_keeps_its_traceback(tmp_path, monkeypatch):
    """Oracle: a package whose own import fails; installing it again would not help."""
    (tmp_path / "broken_package.py").write_text("import nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere") as error:
        require("broken_package", "report")
    assert not isinstance(error.value, MissingDependencyError)
    sys.modules.pop("broken_package", None)


def test_what_another_library_said_fits_into_a_line():
    """Oracle: by hand."""
    assert one_line(ValueError("  reset\n by   peer\n")) == "reset by peer"
    assert one_line(ValueError("x" * 300)) == "x" * 200
    assert one_line(ZeroDivisionError()) == "ZeroDivisionError"
