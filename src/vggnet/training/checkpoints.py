"""Checkpoints that survive a kill: the new one is whole on the disk before the old one goes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vggnet.accel.autotuning import Choices, autotuner
from vggnet.errors import RunError
from vggnet.files import check_readable, remove_leftovers, replacing, write_text
from vggnet.training.learner import Learner, check_finite_weights
from vggnet.training.loop import Position

INDEX = "checkpoints.json"  # names and checksums, newest first
KEPT = 2


class Checkpoints:
    """The checkpoints in a folder: safetensors files and an index with their SHA-256, the newest two of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved_at = monotonic()  # or opened at
        self.choices: Choices = {}  # of the restored run's convolutions in this process; see `Autotuner.fixed`

    def is_due(self, minutes: float) -> bool:
        """Whether the last save lies `minutes` or more back."""
        return monotonic() - self.saved_at >= 60 * minutes

    def save(self, learner: Learner, position: Position) -> None:
        """Write everything that a resumed run needs.  Raises: NonFiniteError, StorageError; older ones then remain."""
        used = learner.ranks.texts(json.dumps(autotuner().chosen()))
        learner.ranks.first(self._save, learner, position, used)

    def restore(self, learner: Learner) -> tuple[Position, list[str]]:
        """Load the newest sound checkpoint into `learner`. Returns its position, and a note for each damaged one.

        Without any checkpoint the run starts at the beginning.  Raises: RunError if all of them are damaged.
        """
        return learner.ranks.in_turn(self._restore, learner)

    def newest_position(self) -> Position:
        """How far the newest checkpoint is.  Raises: RunError if there is none or it cannot be read."""
        entries = self._index()
        if not entries:
            raise RunError(f"{self.folder}: no checkpoint.")
        return Position.from_dict(_read(self.folder / entries[0]["file"])[0]["position"])

    def _save(self, learner: Learner, position: Position, used: list[str]) -> None:
        check_finite_weights(learner.model)
        name = f"epoch-{position.epoch:04d}-step-{position.step:06d}.safetensors"
        older = self._index()
        if any(entry["file"] == name for entry in older):
            return  # the same position has the same state
        with replacing(self.folder / name) as temporary:
            save_file(_tensors(learner), temporary, _facts(position, used))
            checksum = _sha256(temporary)
        kept = [{"file": name, "sha256": checksum}, *older][:KEPT]
        self._write_index(kept)
        for file in self.folder.glob("*.safetensors"):
            if file.name not in {entry["file"] for entry in kept}:
                file.unlink(missing_ok=True)
        self.saved_at = monotonic()

    def _restore(self, learner: Learner) -> tuple[Position, list[str]]:
        remove_leftovers(self.folder)
        damaged: list[str] = []
        entries = self._index()
        for number, entry in enumerate(entries):
            try:
                position, self.choices = _load(self.folder / entry["file"], entry["sha256"], learner)
            except RunError as error:
                damaged.append(str(error))
            else:
                if damaged:
                    self._write_index(entries[number:])
                return position, damaged
        if entries:
            raise RunError(f"no checkpoint is sound: {' '.join(damaged)} Train again from the start.")
        return Position(), damaged

    def _write_index(self, entries: list[dict[str, str]]) -> None:
        write_text(self.folder / INDEX, json.dumps(entries, indent=1))

    def _index(self) -> list[dict[str, str]]:
        path = self.folder / INDEX
        if not path.is_file():
            return []
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            return [{"file": Path(entry["file"]).name, "sha256": entry["sha256"]} for entry in entries]
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}: damaged ({error}). Remove it to start this run from the beginning.") from error


def _facts(position: Position, used: list[str]) -> dict[str, str]:
    """Beside the tensors: how far the run is, and each process's choice of convolutions, to go on with the same."""
    first, *others = used
    return {
        "position": json.dumps(asdict(position)),
        "convolutions": first,
        "convolutions_of_others": f"[{', '.join(others)}]",
    }


def _tensors(learner: Learner) -> dict[str, Tensor]:
    """Every tensor of the learner under one flat set of names."""
    tensors = {f"model.{name}": tensor for name, tensor in learner.model.state_dict().items()}
    if learner.average:
        tensors |= {f"average.{name}": tensor for name, tensor in learner.average.state_dict().items()}
    for index, state in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if value is not None}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _load(path: Path, checksum: str, learner: Learner) -> tuple[Position, Choices]:
    if not path.is_file():
        raise RunError(f"{path} is missing.")
    if _sha256(path) != checksum:
        raise RunError(f"{path} is damaged (its SHA-256 is not the recorded one).")
    facts, tensors = _read(path)
    used = [facts["convolutions"], *facts.get("convolutions_of_others", ())]
    learner.model.load_state_dict(_under("model", tensors))
    if learner.average:
        learner.average.load_state_dict(_under("average", tensors))
    parameters = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer", tensors).items():
        index, key = name.split(".", 1)
        like_parameter = torch.empty_like(parameters[int(index)]).copy_(tensor)  # its memory format makes steps fast
        state.setdefault(int(index), {})[key] = like_parameter
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
    return Position.from_dict(facts["position"]), used[min(learner.ranks.rank, len(used) - 1)]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `_facts` and `_tensors` have written.  Raises: RunError, StorageError."""
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts = {key: json.loads(value) for key, value in file.metadata().items()}
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}).") from error


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
