"""Put the weights of a finished run of `vgg study speed` into the package, in float16, with their card.

    python scripts/ship.py RUN ROWS NAME

RUN is the run folder, ROWS the study's rows, which say how good the run was; NAME is what the weights are called.
`python scripts/record.py card NAME` then writes the card into docs/weights.md.
"""

import json
import sys
from pathlib import Path

from vggnet.studies.rows import find_row, read_rows
from vggnet.training.run import Run
from vggnet.weights.checkpoint import load, save
from vggnet.weights.named import SHIPPED


def main() -> None:
    folder, rows, name = sys.argv[1:]
    run = Run.open(Path(folder))
    about = run.description
    row = find_row(read_rows(Path(rows)), "preset", about["preset"], run.config, about["fingerprint"])
    if row is None:
        sys.exit(f"{rows} has no row of {folder}; let the study finish first.")
    notes = {
        "data": "cifar10", "preset": row["preset"], "seed": row["seed"], "top1": row["top1"],
        "top1_six_views": row["top1_six_views"], "per_class": row["per_class"], "test_images": row["images"],
        "config": row["config"], "seconds": row["seconds"], "fingerprint": row["fingerprint"],
        "environment": row["environment"],
    }  # fmt: skip
    path = SHIPPED / f"{name}.safetensors"
    save(load(run.folder).half(), path, notes=notes)
    print(json.dumps({"file": path.name, "megabytes": path.stat().st_size / 1e6}))


if __name__ == "__main__":
    main()
