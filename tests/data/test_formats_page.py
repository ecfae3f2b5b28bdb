"""The page that finds the options of a log by what it looks like."""

from __future__ import annotations

import re
import shlex

import pytest
from composing import build
from pages import PAGES

PAGE = PAGES["docs/getting_started/my_data.md"]
CODES = re.findall(r"`([^`]+)`", "\n".join(line for line in PAGE.splitlines() if "|" in line))
COMMANDS = [code for code in CODES if code.startswith("data=") and " " in code]
OPTIONS = [code for code in CODES if re.match(r"""["']?(data\.|policy=)\w+""", code)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_row_is_a_valid_configuration(command: str) -> None:
    build(*shlex.split(command))


def test_every_option_is_one_of_some_format() -> None:
    assert len(COMMANDS) > 15 and len(OPTIONS) > 12
    table = next(command for command in COMMANDS if command.startswith("data=table"))
    dreamer = next(command for command in COMMANDS if command.startswith("data=dreamer"))
    bases = {"csv": table, "feedthrough": table, "actions_led_here": dreamer}
    for word in filter(lambda option: "=" in option, OPTIONS):
        name = re.split(r"[.=]", word)[1]
        build(*shlex.split(bases.get(name, "data=npz data.path=a.npz")), *shlex.split(word))
