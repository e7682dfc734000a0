"""What the README promises: its Python runs, its commands exist, its pictures and files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from softprompt_core.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_python_example_runs_and_prints_an_accuracy_and_a_word(capsys):
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 12
    quick, count = re.subn(r"steps=\d+", "steps=3, virtual_tokens=4", example)
    assert count == 1
    exec(compile(quick, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "validation prompt 0." in printed
    assert "test hand_written 0." in printed
    assert "Neighbour(id=" in printed


def test_every_command_of_the_readme_is_one_of_the_program(capsys):
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("softprompt ")]
    commands = {line.split()[1] for line in lines}
    assert {"train", "compare", "inspect", "eval", "predict", "export", "import", "runs", "app"} <= commands
    for command in sorted(commands):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert "usage: " in capsys.readouterr().out


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"^make ([a-z-]+)", README, re.M)) <= set(targets)


def test_pictures_and_folders_named_in_the_readme_exist():
    for path in re.findall(r"\]\((assets/[^)]+)\)", README) + re.findall(r"`(benchmarks/[^`]+|assets/[^`]+)`", README):
        assert (ROOT / path).exists(), path
