"""docs/method.md on the page: what every measure is, and the anchors that captions link to."""

import dataclasses
import functools
import re
from collections.abc import Sequence

from etils import epath
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

REPORT = epath.Path(__file__).parent
# In an installed wheel, and in a checkout.
PATHS = (REPORT / "method.md", REPORT.parents[1] / "docs" / "method.md")
PREFIX = "method-"  # of ids on the page, which has ids of its own


@dataclasses.dataclass(frozen=True)
class Method:
    """The rendered text and the anchors of its headings; both are empty without the file."""

    html: Markup
    anchors: frozenset[str]

    def find_anchor(self, name: str, declared: str = "") -> str:
        """The declared anchor, by default the name with hyphens; empty where it does not exist."""
        anchor = declared or name.replace("_", "-")
        return anchor if anchor in self.anchors else ""


def load_method(paths: Sequence[epath.Path] = PATHS) -> Method:
    """The first of the files that exists; an empty method where none does."""
    for path in paths:
        if path.exists():
            return render(path.read_text())
    return Method(Markup(""), frozenset())


@functools.cache
def render(text: str) -> Method:
    """Render Markdown for the page.

    The title is left out, since the page has a heading for it, and the other headings move down
    one level. Links to headings get the page's ids.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    if tokens and tokens[0].tag == "h1":
        tokens = tokens[3:]  # a heading is three tokens: its start, its text and its end
    anchors = []
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            anchor = slugify(_plain_text(tokens[i + 1]))
            anchors.append(anchor)
            token.attrSet("id", PREFIX + anchor)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1:]) + 1}"
        for child in token.children or ():
            target = str(child.attrGet("href") or "")
            if target.startswith("#"):
                child.attrSet("href", f"#{PREFIX}{target[1:]}")
    html = parser.renderer.render(tokens, parser.options, {})
    # Wide tables scroll by themselves, as the page's own do.
    html = html.replace("<table>", '<div class="wide"><table>')
    html = html.replace("</table>", "</table></div>")
    return Method(Markup(html), frozenset(anchors))


def slugify(heading: str) -> str:
    """GitHub's anchor of a heading: lower case, hyphens for spaces, no other punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _plain_text(heading: Token) -> str:
    return "".join(child.content for child in heading.children or ())
