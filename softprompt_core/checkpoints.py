"""A run's checkpoints on disk: one safetensors file each, the newest always whole.

The plain facts stand in the file's header, so that tensors and facts appear together in one rename; whatever ends
the program, a checkpoint is there whole or not at all.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from softprompt_core.errors import UserError
from softprompt_core.files import read_tensors, write_tensors
from softprompt_core.records import Checkpoint

KEPT_BYTES = 64_000_000
"""Checkpoints of a run are all kept up to this size together; beyond it the oldest go, but never the last two."""
_NAME = re.compile(r"step-(\d+)\.safetensors")


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of which a checkpoint lies in the folder, whole or damaged, in order."""
    return [step for step, _ in _files(folder)]


def write_checkpoint(folder: Path, record: Checkpoint) -> None:
    """Adds a checkpoint, then removes what is kept no longer."""
    folder.mkdir(exist_ok=True)
    for unfinished in folder.glob(".*.part"):       # of a program that was killed; a run has one writer
        unfinished.unlink(missing_ok=True)
    path = folder / f"step-{record.step:08d}.safetensors"
    write_tensors(path, record.tensors, is_durable=True, step=record.step, facts=json.dumps(record.facts))
    _prune(folder, best_step=record.facts.get("best_step"))


def read_checkpoint(folder: Path, run_id: str, *, step: int) -> Checkpoint:
    """The checkpoint of a step. Raises UserError when there is none or it is damaged."""
    path = dict(_files(folder)).get(step)
    if path is None:
        there = ", ".join(map(str, checkpoint_steps(folder))) or "none yet"
        raise UserError(f"Run {run_id!r} has no checkpoint of step {step}. Those it has: {there}.")
    tensors, header = read_tensors(path)
    try:
        facts: dict[str, Any] = json.loads(header["facts"])
        return Checkpoint(run_id, int(header["step"]), tensors, facts)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path.name} in {path.parent} is damaged and cannot be read ({error!r}).") from None


def remove_later(folder: Path, *, step: int) -> None:
    """Removes the checkpoints of later steps; damaged ones too."""
    for number, path in _files(folder):
        if number > step:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every checkpoint, in order of steps."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def _prune(folder: Path, *, best_step: Any) -> None:
    """Removes the oldest while all together are too large: first those that are not the best, never the last two."""
    files = _files(folder)
    sizes = {path: path.stat().st_size for _, path in files}
    total = sum(sizes.values())
    for _, path in sorted(files[:-2], key=lambda file: (file[0] == best_step, file[0])):
        if total <= KEPT_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= sizes[path]
