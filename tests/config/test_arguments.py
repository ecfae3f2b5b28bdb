"""One parser for all command lines: flags, positional words, and OPTION=VALUE."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from worldmodel.config.arguments import Arguments, parse_options
from worldmodel.config.option import option
from worldmodel.errors import ConfigError


@dataclass
class Inner:
    size: int = option(3, "a number", low=1)
    names: list[str] | None = option(None, "some names")


@dataclass
class Outer:
    kind: str = option("a", "a choice", choices=("a", "b"))
    shares: list[float] = option([0.5], "some numbers", low=0.0, high=1.0)
    inner: Inner = field(default_factory=Inner)


def parse(*words: str) -> Outer:
    options = Outer()
    parse_options(words, options, shorthand="inner.")
    return options


def test_words_are_sorted_into_flags_positional_words_and_options() -> None:
    words = ["--help", "logs/a=1.npz", "kind=b", "DEST"]
    arguments = Arguments.parse(words, positional=True)
    assert arguments == Arguments(["--help"], ["logs/a=1.npz", "DEST"], ["kind=b"])
    assert arguments.take("SOURCE", "DEST", "[FOLDER]", usage="") == ["logs/a=1.npz", "DEST"]
    with pytest.raises(ConfigError, match=r"DEST: unexpected argument\n  usage: command SOURCE"):
        arguments.take("SOURCE", usage="command SOURCE")
    with pytest.raises(ConfigError, match="OTHER is missing"):
        arguments.take("SOURCE", "DEST", "OTHER", usage="")


def test_an_unknown_flag_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"--hlp: unknown flag; accepts -h, --help \(did you"):
        Arguments.parse(["--hlp"])


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("inner.names=[x,y]", ["x", "y"]),
        ("inner.names=x,y", ["x", "y"]),
        ("names=x", ["x"]),
        ("names=runs/a-[0-9]*,b c", ["runs/a-[0-9]*", "b c"]),
        ("names='x,y'", None),
        ("names=null", None),
    ],
)
def test_lists_need_no_brackets_and_keys_no_common_prefix(
    word: str, names: list[str] | None
) -> None:
    if word.endswith("'"):
        with pytest.raises(ConfigError, match="inner.names=x,y: accepts list"):
            parse(word)
    else:
        assert parse(word).inner.names == names


def test_values_are_converted_and_returned_by_key() -> None:
    options = Outer()
    given = parse_options(["shares=0,1", "size=4.0"], options, shorthand="inner.")
    assert given == {"shares": [0.0, 1.0], "inner.size": 4}
    assert options == Outer(shares=[0.0, 1.0], inner=Inner(size=4))


def test_all_errors_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        parse("kind=c", "shares=2", "siz=1", "inner=3", "size=1,2", "hydra.verbose=true")
    lines = [line for line in str(raised.value).splitlines() if not line.startswith(" ")]
    assert [line.split(":")[0] for line in lines] == [
        "kind=c",
        "shares=[2]",
        "siz",
        "inner",
        "inner.size=1,2",
        "hydra.verbose=true",
    ]
    assert "did you mean 'inner.size'" in str(raised.value)
