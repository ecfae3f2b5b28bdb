"""Text in Markdown, HTML and terminals: what it names comes from others, and is never markup."""

from __future__ import annotations

import html
import re

from rich.text import Text

from worldmodel.errors import printable

# Markup of GitHub's Markdown, but for what means nothing where it stands: underscores within words,
# brackets without a link, "&" without an entity, and signs that begin a list, inside a line.
MARKUP = re.compile(
    r"[\\`*<|$~]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|&(?=#?\w+;)|^\s*[#>+-](?=\s|[#>])"
)


def escape(text: object, keep: str = "") -> str:
    """For HTML; `keep` names control characters that stay as they are."""
    return html.escape(printable(text, keep))


def markdown_text(text: object) -> str:
    """For a line of Markdown, or a cell of its tables."""
    return MARKUP.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", printable(text))


def terminal_text(text: object, style: str = "") -> Text:
    """For rich, without its markup."""
    return Text(printable(text), style)
