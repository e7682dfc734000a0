"""Asking the model what its prompt means: the prompt stands in a sentence as a word would, and the model goes on.

Each answer is put in the prompt's place as plain text and scored by plug-in recovery,
1 − KL(answer as text) / KL(no prompt): 1 does all that the prompt does, 0 nothing, below 0 leads away. The best of many
answers is partly luck, so the same sweep is made on the start, on the prompt with its tokens shuffled, and on another
run's prompt; an answer counts only if it recovers more than the best of those. After self-verbalisation as in SelfIE
(Chen et al. 2024) and InSPEcT (Ramati et al. 2024).

Axis letters: P virtual tokens, T tokens, H embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from softprompt_core.inspection.effect import Effect, Outcome, divergence
from softprompt_core.inspection.signature import continue_from
from softprompt_core.models import BaseModel
from softprompt_core.records import FloatArray
from softprompt_core.tokenising import text_token_ids

PLACE = "§"
FRAMES = (
    "Describe what this command means: Please §. It means: ",
    "The instruction \"§\" asks you to",
    "In other words, § means",
    "Task: §\nExplain the task in one sentence:",
    "Repeat the following: §\nAgain:",
    "§\nThe text above says:",
)
ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Answer:
    """What the model said in one frame, and how much of the prompt's effect that text recovers."""

    frame: str
    text: str
    recovery: float


@dataclass(frozen=True)
class Elicitation:
    """answers: of the prompt, best first; controls: the same sweep on other vectors, by name."""

    answers: list[Answer]
    controls: dict[str, list[Answer]]

    @property
    def best_control(self) -> float:
        """The highest recovery that a control reached: what selection alone brings."""
        return max((a.recovery for answers in self.controls.values() for a in answers), default=0.0)

    @property
    def says_something(self) -> bool:
        """Whether the best answer recovers more than every control's."""
        return bool(self.answers) and self.answers[0].recovery > max(0.0, self.best_control)


def elicit(
    effect: Effect,
    prompt: FloatArray,
    *,
    start: FloatArray | None = None,
    other: FloatArray | None = None,
    frames: Sequence[str] = FRAMES,
    seed: int = 0,
) -> Elicitation:
    """The model's own words for a prompt [P, H], beside those for its start, its shuffle and another prompt."""
    shuffled = prompt[np.random.default_rng(seed).permutation(len(prompt))]
    sweeps: Mapping[str, FloatArray | None] = {
        "prompt": prompt, "start": start, "shuffled": shuffled, "another prompt": other,
    }
    there = {name: vectors for name, vectors in sweeps.items() if vectors is not None}
    soft, nothing = effect.of(prompt), effect.of_nothing()
    known: dict[str, float] = {}
    found: dict[str, list[Answer]] = {}
    for name, vectors in there.items():
        answers = []
        for frame in frames:
            effect.check_stop()
            text = answer_to(effect.base, vectors, frame)
            if text not in known:
                known[text] = recovery(effect, text, soft, nothing)
            answers.append(Answer(frame, text, known[text]))
        found[name] = sorted(answers, key=lambda a: -a.recovery)
    return Elicitation(found.pop("prompt"), found)


def recovery(effect: Effect, text: str, soft: Outcome, nothing: Outcome) -> float:
    """1 − KL(text in the prompt's place) / KL(no prompt), both from the prompt's label shares."""
    without = divergence(nothing, soft)
    if not text or without <= 0:
        return 0.0
    return 1.0 - divergence(effect.of_text(text), soft) / without


def answer_to(base: BaseModel, prompt: FloatArray, frame: str, *, tokens: int = ANSWER_TOKENS) -> str:
    """What the model goes on to say after a frame whose § is the prompt [P, H]; one line."""
    embed = base.module.get_input_embeddings()
    before, after = frame.split(PLACE)
    parts = []
    start = base.tokenizer.bos_token_id
    begins = base.tokenizer.encode("x")[:1] == [start]
    for place, text in enumerate((before, after)):
        ids = text_token_ids(text, base.tokenizer) if text else []
        if place == 0 and begins:
            ids = [start, *ids]
        if ids:
            with torch.no_grad():
                parts.append(embed(torch.tensor([ids], device=base.device)))
        if place == 0:
            parts.append(torch.from_numpy(prompt)[None].to(base.device, embed.weight.dtype))
    said = continue_from(base, torch.cat(parts, dim=1), tokens=tokens)
    return said.splitlines()[0].strip() if said else ""
