"""Whether a weights file is what it says."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vggnet.weights.checkpoint import Checkpoint, sha256


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A sound weights file."""

    file: Path
    sha256: str  # of the file
    model: str
    head: str
    parameters: int
    classes: int  # 0 without a head
    source: str | None  # the file that it was converted from
    source_sha256: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "file": str(self.file)}


def verify(source: Path | str) -> Verified:
    """Read everything in a run folder's weights, a file, or weights named in `vgg weights list`.

    The tensors must be those of the network that the file describes, finite, and have the checksum that they were saved
    with (files of the first format have none).
    Raises: WeightsError saying what is wrong.
    """
    checkpoint = Checkpoint.open(source)
    model, notes, path = checkpoint.build(), checkpoint.provenance, checkpoint.path
    assert path is not None
    return Verified(
        file=path,
        sha256=sha256(path),
        model=model.architecture.name,
        head=model.architecture.head,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=model.num_classes,
        source=notes.get("source"),
        source_sha256=notes.get("sha256"),
    )
