"""Griffe extension: shows the `name: meaning` lines of docstrings as lists and examples as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"`?\w+`?(?:, `?\w+`?)*: \S")


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites a docstring after Griffe has read it (an event of Griffe)."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring: str) -> str:
    """`name: meaning` lines become list items; `Example:` becomes Griffe's section of doctests."""
    lines: list[str] = []
    in_list = False
    for line in docstring.splitlines():
        if ITEM.match(line):
            if lines and lines[-1] and not in_list:
                lines.append("")
            name, _, meaning = line.partition(": ")
            line, in_list = f"- **{name.replace('`', '')}**: {meaning}", True
        elif in_list and line.startswith("  "):
            line = f"    {line.strip()}"
        else:
            if in_list and line:
                lines.append("")
            in_list = False
            line = re.sub(r"^Example:$", "Examples:", line)
        lines.append(line)
    return "\n".join(lines)
