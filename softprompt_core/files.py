"""Files that are whole or not there: written aside, then renamed into place."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from softprompt_core.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Writes JSON aside and renames it into place."""
    with write_aside(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


@contextmanager
def write_aside(path: Path) -> Iterator[Any]:
    """A text file that appears under `path` only when it is whole."""
    part = _part(path)
    try:
        with open(part, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], *, is_durable: bool = False, **facts: int | str) -> None:
    """Writes a safetensors file aside and renames it into place; facts go to its header.

    is_durable: waits until the disk has it, so that not even a power cut leaves a name without its content.
    """
    part = _part(path)
    try:
        # not ascontiguousarray, which gives an array without axes one
        contiguous = {key: np.asarray(value, order="C") for key, value in tensors.items()}
        save_file(contiguous, part, metadata={key: str(value) for key, value in facts.items()})
        if is_durable:
            with open(part, "rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, header facts) of a safetensors file. Raises UserError when it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path.name} in {path.parent} is damaged and cannot be read ({error}).") from None


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
