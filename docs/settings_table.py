"""Writes every setting into the page of the settings, where mkdocs builds it."""

from typing import Any

from jaxdiff.setting_fields import Key, keys
from jaxdiff.settings import StudySettings

MARKER = "<!-- every setting -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    if MARKER not in markdown:
        return markdown
    rows = ["| key | default | meaning |", "|---|---|---|", *map(_row, keys(StudySettings))]
    return markdown.replace(MARKER, "\n".join(rows))


def _row(key: Key) -> str:
    help_text = key.field.metadata["help"].replace("|", "\\|")
    return f"| `config.{key.name}` | `{key.default!r}` | {help_text} |"
