"""Run docs/tour.ipynb from start to end in an empty folder, and save its outputs.

python scripts/tour.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

TOUR = Path(__file__).resolve().parent.parent / "docs" / "tour.ipynb"


def main() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    with TemporaryDirectory() as folder:
        run(notebook, Path(folder))
    notebook.metadata.pop("language_info", None)  # the machine's Python
    for cell in notebook.cells:
        if "outputs" in cell:  # warnings contain paths of the machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, TOUR)


def run(notebook: NotebookNode, folder: Path) -> None:
    """Run every cell, in `folder`.  Raises: CellExecutionError."""
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3", resources=place, record_timing=False, startup_timeout=600).execute()


if __name__ == "__main__":
    main()
