"""README, CONTRIBUTING and docs as their readers see them: blocks of code and commands to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
    if path.exists()
}
README = PAGES["README.md"]


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(block: str) -> list[str]:
    """The commands of a shell block, each as one line."""
    lines = block.replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in line.split("&&")]


def all_commands() -> list[str]:
    """The commands of every shell block of every page."""
    return [c for text in PAGES.values() for b in blocks(text, "sh") for c in commands(b)]


def words_after(program: str) -> list[list[str]]:
    """The words after `program` in every command of every page."""
    return [shlex.split(c[len(program) :]) for c in all_commands() if c.startswith(program)]
