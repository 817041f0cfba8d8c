"""The Markdown report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --soft: #5c6370;
  --line: #d9dce1; --stripe: #f5f6f8; --link: #0b63b5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e5e8; --paper: #16181b; --soft: #9aa1ac;
  --line: #383c43; --stripe: #1e2125; --link: #6cb0f5; } }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: var(--ink); background: var(--paper); max-width: 78rem; margin: 0 auto;
  padding: 2rem 1.25rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 1rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; }
h4 { font-size: 1rem; margin: 1.6rem 0 0.4rem; }
p, ul, ol { max-width: 48rem; }
a { color: var(--link); }
nav { margin: 1.5rem 0; padding: 0.7rem 1rem; background: var(--stripe); border-radius: 6px; }
nav ol { margin: 0; padding-left: 1.4rem; columns: 2; }
code { font: 0.88em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  background: var(--stripe); padding: 0.08em 0.3em; border-radius: 3px; }
pre { background: var(--stripe); padding: 0.8rem 1rem; overflow-x: auto; border-radius: 6px; }
pre code { padding: 0; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.32rem 0.5rem; border-bottom: 1px solid var(--line); vertical-align: top;
  text-align: left; }
th { border-bottom: 2px solid var(--line); }
tbody tr:nth-child(even) { background: var(--stripe); }
td code, td[style*="right"] { white-space: nowrap; }
img { display: block; max-width: 100%; height: auto; margin: 1.5rem 0 0; background: #ffffff;
  border-radius: 6px; }
p:has(> img) { max-width: none; margin-bottom: 0.4rem; }
p:has(> img) + p { color: var(--soft); font-size: 0.9rem; }
@media print { body { max-width: none; } h2 { break-after: avoid; } img { break-inside: avoid; } }
"""


def page(markdown: str, folder: Path) -> str:
    """A whole HTML document; pictures are read from `folder` and put in.

    Raises:
        OSError: when a picture cannot be read.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    contents = _name_headings(tokens)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                child.attrSet("src", _data(folder / unquote(str(child.attrGet("src")))))
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace("<table>", '<div class="table"><table>')
    body = body.replace("</table>", "</table></div>")
    title = next((t for level, t, _ in contents if level == "h1"), "Study")
    body = body.replace("<h2", f"{_navigation(contents)}\n<h2", 1)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )


def _name_headings(tokens: list[Token]) -> list[tuple[str, str, str]]:
    """Gives headings ids; returns tag, text and id of each."""
    found: list[tuple[str, str, str]] = []
    for token, inline in pairwise(tokens):
        if token.type != "heading_open":
            continue
        text = "".join(c.content for c in inline.children or () if c.type in _TEXT)
        name = base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
        number = 1
        while name in {n for _, _, n in found}:
            number += 1
            name = f"{base}-{number}"
        token.attrSet("id", name)
        found.append((token.tag, text, name))
    return found


_NUMBER = re.compile(r"^[0-9]+\. ")
_TEXT = ("text", "code_inline", "text_special")


def _navigation(contents: list[tuple[str, str, str]]) -> str:
    items = "".join(
        f'<li><a href="#{name}">{html.escape(_NUMBER.sub("", text))}</a></li>'
        for level, text, name in contents
        if level == "h2"
    )
    return f"<nav><ol>{items}</ol></nav>" if items else ""


def _data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
