"""README and docs as their readers take them: blocks of code, and commands to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
README = PAGES["README.md"]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(block: str) -> list[str]:
    """The commands of a block for a shell, each on a line of its own."""
    lines = block.replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in line.split("&&")]


def words_after(program: str) -> list[list[str]]:
    """The words after `program` in every command of every page."""
    given = [c for text in PAGES.values() for b in blocks(text, "sh") for c in commands(b)]
    return [shlex.split(c[len(program) :]) for c in given if c.startswith(program)]
