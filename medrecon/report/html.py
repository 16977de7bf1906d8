"""HTML elements. All text and all attributes are escaped, unless they are elements themselves."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["Html", "document", "el", "joined", "link", "table"]

_VOID = {"br", "img", "input", "link", "meta"}
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
"""Scripts that run; those with a type are data."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def joined(parts: Iterable[object]) -> Html:
    """Parts side by side; text is escaped, ``None`` is left out."""
    return Html(
        "".join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts if part is not None)
    )


def el(tag: str, /, *children: object, **attributes: Any) -> Html:  # noqa: ANN401 - text, numbers, booleans
    """An element.

    Args:
        tag: name of the element.
        children: text, which is escaped, or elements; ``None`` is left out.
        **attributes: attributes; ``class_`` is ``class``, other underscores are hyphens, ``True`` is an attribute without value,
            and ``None`` and ``False`` are left out.
    """
    text = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        text += f" {label}" if value is True else f' {label}="{html.escape(str(value))}"'
    if tag in _VOID:
        return Html(f"<{tag}{text}>")
    return Html(f"<{tag}{text}>{joined(children)}</{tag}>")


def link(text: str, address: str) -> Html:
    """A link to a paper or a project page."""
    return el("a", text, href=address, rel="noreferrer noopener")


def table(head: Iterable[object], rows: Iterable[Iterable[object]], caption: str | None = None) -> Html:
    """A table whose first column names the rows. Wide tables scroll by themselves."""
    top = el("tr", *(el("th", cell, scope="col") for cell in head))
    body = []
    for row in rows:
        first, *rest = row
        body.append(el("tr", el("th", first, scope="row"), *(el("td", cell) for cell in rest)))
    parts = (el("caption", caption) if caption else None, el("thead", top), el("tbody", *body))
    return el("div", el("table", *parts), class_="scroll", tabindex=0, role="region", aria_label=caption or "table")


def document(title: str, body: Html, style: str, script: str, also: Iterable[bytes] = ()) -> bytes:
    """A document that loads nothing: its policy allows images inside the file, and the scripts it contains, by their hashes.

    Args:
        title: title of the document.
        body: content; it may contain further scripts.
        style: style sheet.
        script: script at the end of the body.
        also: SHA-256 of scripts that those of the body add.
    """
    body = joined([body, Html(f"<script>{script}</script>")])
    digests = [*(hashlib.sha256(one.encode()).digest() for one in _SCRIPT.findall(body)), *also]
    scripts = " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in digests)
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {scripts}; base-uri 'none'; form-action 'none'"
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="robots", content="noindex"),
        el("title", title),
        Html(f"<style>{style}</style>"),
    )
    return f"<!DOCTYPE html>\n{el('html', head, el('body', body), lang='en')}\n".encode("utf-8", "replace")
