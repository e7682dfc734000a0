"""Plain data that flows between layers: what training yields and what readings return.

Axis letters: P virtual tokens, H embedding width, V vocabulary, S snapshots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Tensors = dict[str, NDArray[Any]]

Status = Literal["queued", "running", "paused", "stopped", "interrupted", "failed", "done"]
ENDED: tuple[Status, ...] = ("stopped", "interrupted", "failed", "done")

SnapshotKind = Literal["trajectory", "live", "selected"]
"""trajectory: kept for the slider; live: overwritten, for the words shown while training; selected: the result."""


@dataclass(frozen=True)
class StartRecord:
    """A run begins; what it is made on (revision, data hash, versions, tokens of its start).

    What may have been recorded of an earlier beginning is void.
    """

    run_id: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class StepRecord:
    """One optimiser step of one run; `loss` is the mean −log p per label token of the batch, in nats."""

    run_id: str
    step: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class EvalRecord:
    """One evaluation; `source` says what stood before the text: the soft prompt, the words, or nothing at all."""

    run_id: str
    step: int
    split: str
    loss: float | None
    accuracy: float | None
    macro_f1: float | None
    rows: int = 0
    source: str = "prompt"


@dataclass(frozen=True)
class Snapshot:
    """The prompt of one run at one step; prompt: [P, H] float32."""

    run_id: str
    step: int
    prompt: FloatArray
    kind: SnapshotKind = "trajectory"


@dataclass(frozen=True)
class Weights:
    """What a method other than a soft prompt has learned, at the step that validation selected."""

    run_id: str
    step: int
    tensors: Tensors


@dataclass(frozen=True)
class Checkpoint:
    """Everything the next step of a run depends on; facts are plain JSON values."""

    run_id: str
    step: int
    tensors: Tensors
    facts: dict[str, Any]


@dataclass(frozen=True)
class ResumeRecord:
    """A run goes on after this step: what had been recorded of later ones is void."""

    run_id: str
    step: int


@dataclass(frozen=True)
class PauseRecord:
    """A run is held after this step, or goes on again."""

    run_id: str
    step: int
    is_paused: bool


@dataclass(frozen=True)
class LogRecord:
    run_id: str
    level: Literal["info", "warning", "error"]
    text: str


@dataclass(frozen=True)
class EndRecord:
    """The last record of a run; `result` holds the keys of the CLI's `train` document that training knows."""

    run_id: str
    status: Status
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)


Record = (
    StartRecord | ResumeRecord | StepRecord | EvalRecord | Snapshot | Weights | Checkpoint | PauseRecord | LogRecord
    | EndRecord
)


@dataclass(frozen=True)
class RunInfo:
    """What the store knows of a run without opening its folder; times are seconds since 1970."""

    run_id: str
    name: str
    status: Status
    group_id: str | None
    created: float
    updated: float
    config: dict[str, Any]
    result: dict[str, Any]
    reason: str
    step: int
    steps: int


@dataclass(frozen=True)
class Neighbour:
    """A vocabulary entry near a vector; `token` is its text made visible, never markup."""

    id: int
    token: str
    score: float


@dataclass(frozen=True)
class TokenReading:
    """Everything the cheap readings say of one virtual token; None means not computed."""

    index: int
    norm: float
    norm_percentile: float
    z: float | None
    echo: bool | None
    neighbours: list[Neighbour]
    start_token: str | None = None
    displacement: float | None = None
