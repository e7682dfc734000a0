"""Recipes from papers and examples: files of settings that a user can read, each with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt_core.config import TrainConfig, parse_config
from softprompt_core.errors import UserError

PRESETS_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "presets"


class Preset(BaseModel):
    """A recipe: some settings, what they are for, and where they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = Field(min_length=1, max_length=80)
    about: str = Field(min_length=1)
    source: str = Field(min_length=1)
    settings: dict[str, Any]

    def config(self, **others: Any) -> TrainConfig:
        """The whole settings of the recipe, with some replaced. Raises UserError for values that are not allowed."""
        return parse_config(self.settings).with_changes(**others)


def list_presets(folder: Path = PRESETS_FOLDER) -> list[Preset]:
    """Every recipe there is, by name."""
    return [load_preset(name, folder=folder) for name in _names(folder)]


def load_preset(name: str, *, folder: Path = PRESETS_FOLDER) -> Preset:
    """The recipe of that name. Raises UserError when there is none, or its file is not right."""
    if name not in _names(folder):
        raise UserError(f"preset: {name!r} was given; allowed are {', '.join(_names(folder))}.")
    text = (folder / f"{name}.json").read_text(encoding="utf-8")
    try:
        found = Preset.model_validate({"name": name, **_Written.model_validate_json(text).model_dump()})
    except ValidationError as error:
        (first, *_) = error.errors()
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"preset {name!r}: {where}: {first['msg'].lower()}. Mend {name}.json.") from None
    try:
        parse_config(found.settings)
    except UserError as error:
        raise UserError(f"preset {name!r}: {error}") from None
    return found


class _Written(BaseModel):
    """A file of a recipe; its name is the recipe's."""

    model_config = ConfigDict(extra="forbid")

    title: str
    about: str
    source: str
    settings: dict[str, Any]


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.json"))
