"""The frame and the headers of every HTML page."""

from __future__ import annotations

import html

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
"""Headers of every HTML page: no inline script or style, and no other host."""


def html_page(title: str, body: str, *, root: str) -> str:
    """Return a page; send it with `PAGE_HEADERS`.

    Args:
        title: Text.
        body: HTML.
        root: The relative path of the server's root, with a slash at the end, since a proxy may add a prefix.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" type="image/svg+xml" href="{root}docs/favicon.svg">\n'
        f'<link rel="stylesheet" href="{root}docs/page.css">\n'
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
