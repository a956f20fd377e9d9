"""The public names of `vggnet.interpret`."""

import subprocess
import sys
from pathlib import Path

import vggnet

PUBLIC = [
    "Attribution", "Explanation", "FeatureMaps", "LayerTable", "TopActivation", "Visualization", "explain",
    "feature_maps", "find_top_activations", "first_filters", "layer_table", "visualize_channels",
]  # fmt: skip


def test_public_names():
    """Oracle: the list, typed by hand."""
    assert sorted(vggnet.interpret.__all__) == PUBLIC
    assert all(getattr(vggnet.interpret, name) is not None for name in PUBLIC)
    assert set(PUBLIC) <= set(dir(vggnet.interpret))


def test_no_public_name_is_a_file():
    """Oracle: the files of the package; importing one would hide the function of its name."""
    files = {path.stem for path in Path(vggnet.interpret.__file__).parent.glob("*.py")}
    assert not files & set(PUBLIC)


def test_the_import_is_light():
    """Oracle: the interpreter's list of modules."""
    check = "import vggnet.interpret, sys; print({'torch', 'numpy', 'captum', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "set()"
