"""Keeps the best and the last state of a training on disk, so that a kill costs minutes and not the run.

`best.safetensors` holds the best epoch's learned tensors, `best.json` beside it what they are; while training
runs `last.safetensors` holds all that resuming needs: learned tensors, AdamW's moments and, as JSON in the
file's header, the counters. Each file is written whole beside its place and then renamed. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from featprobe.errors import OutputError
from featprobe.records import canonical_json

SCHEMA: Final = 1
HEADER: Final = "featprobe"
"""The entry of a safetensors header that says which training the tensors belong to."""

Tensors = Mapping[str, Tensor]


class CheckpointStore:
    """The checkpoints of one fold in `folder`; `key` (a hash) names the training they belong to.

    What belongs to another key, or can't be read, is ignored; `notes` then says so.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.best_path = folder / "best.safetensors"
        self.record_path = folder / "best.json"
        self.last_path = folder / "last.safetensors"
        self.notes: list[str] = []

    def claim(self) -> None:
        """Makes the folder and tries to write there; OutputError now rather than after an epoch's work."""
        with _writing(self.folder / "claim") as part:
            part.touch()
        (self.folder / "claim").unlink()

    def finished(self) -> dict[str, Any] | None:
        """The record of a finished training with this key whose weights are unharmed, else None."""
        record = self._record()
        if record is None or not record["complete"]:
            return None
        if not self.best_path.is_file() or _sha256(self.best_path) != record.get("file_sha256"):
            self.notes.append(f"{self.best_path} is missing or damaged: trained again")
            return None
        return record

    def load_last(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """(tensors, state) to resume from, or None."""
        if not self.last_path.is_file():
            return None
        try:
            header, tensors = _read(self.last_path)
            if (header["schema"], header["key"]) != (SCHEMA, self.key):
                self.notes.append(f"{self.last_path} belongs to another training: ignored")
                return None
            return tensors, header["state"]
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            self.notes.append(f"{self.last_path} can't be read ({error}): training begins anew")
            return None

    def holds_best(self, epoch: int) -> bool:
        """Whether `best.safetensors` is this training's epoch `epoch`; a note says where it is not."""
        try:
            header, _ = _read(self.best_path)
            held = (header["schema"], header["key"], header["epoch"]) == (SCHEMA, self.key, epoch)
        except (SafetensorError, ValueError, KeyError, OSError):
            held = False
        if not held:
            self.notes.append(f"{self.best_path} is missing or damaged: training begins anew")
        return held

    def load_best(self) -> dict[str, Tensor]:
        """The best epoch's learned tensors."""
        return load_file(self.best_path)

    def save_last(self, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Replaces `last.safetensors`."""
        self._write_tensors(self.last_path, tensors, {"state": state})

    def save_best(self, tensors: Tensors, record: Mapping[str, Any]) -> None:
        """Replaces `best.safetensors` and its record."""
        self._write_tensors(self.best_path, tensors, {"epoch": record["epoch"]})
        self._write_record({**record, "complete": False})

    def finish(self, record: Mapping[str, Any]) -> None:
        """Marks the training as finished and removes what only resuming needs."""
        self._write_record({**record, "complete": True, "file_sha256": _sha256(self.best_path)})
        self.clear_last()

    def clear_last(self) -> None:
        """Removes `last.safetensors` and what a killed writer left."""
        self.last_path.unlink(missing_ok=True)
        for path in (self.best_path, self.record_path, self.last_path):
            _part(path).unlink(missing_ok=True)

    def _record(self) -> dict[str, Any] | None:
        try:
            record = json.loads(self.record_path.read_text(encoding="utf-8"))
            same = (record["schema"], record["key"]) == (SCHEMA, self.key)
            complete = record["complete"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self.notes.append(f"{self.record_path} can't be read: trained again")
            return None
        if not same and complete:
            self.notes.append(f"{self.record_path} belongs to another training: replaced")
        return record if same else None

    def _write_record(self, record: Mapping[str, Any]) -> None:
        text = json.dumps({"schema": SCHEMA, "key": self.key, **record}, indent=2, allow_nan=False)
        with _writing(self.record_path) as part:
            part.write_text(text + "\n", encoding="utf-8")

    def _write_tensors(self, path: Path, tensors: Tensors, extra: Mapping[str, Any]) -> None:
        # One entry: safetensors writes several in random order, and equal files should have equal bytes.
        header = {HEADER: canonical_json({"schema": SCHEMA, "key": self.key, **extra})}
        # Copies: safetensors refuses tensors that share memory, as tied weights do.
        plain = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        with _writing(path) as part:
            save_file(plain, part, metadata=header)


def read_state(path: Path) -> dict[str, Any]:
    """How far the training of `last.safetensors` at `path` was, its fields as JSON types; {} where it can't be read."""
    try:
        header, _ = _read(path)
        progress: dict[str, Any] = header["state"]["progress"]
    except (SafetensorError, ValueError, KeyError, OSError):
        return {}
    return progress


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and counters as tensors named `POSITION.KEY`."""
    state = optimizer.state_dict()["state"]
    return {f"{position}.{key}": value for position, entry in state.items() for key, value in entry.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """The inverse of `pack_optimizer`; the groups stay as the recipe made them."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        position, _, key = name.partition(".")
        state.setdefault(int(position), {})[key] = value.clone()  # AdamW writes in place, the file is mapped
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})[HEADER])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)  # no fsync: what a power cut damages, the length and the hash give away
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(
            f"{path} can't be written: {error}",
            "what was there before is unharmed",
            "free space or choose another --out, then type the same command again",
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
