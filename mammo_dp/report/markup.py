# SPDX-License-Identifier: Apache-2.0
"""``PRIVACY.md`` as HTML, in its own words: headings, paragraphs, lists, tables and code."""

import re
from collections.abc import Iterator
from itertools import groupby

from markupsafe import Markup, escape


def parts(markdown: str) -> list[tuple[str, Markup]]:
    """Splits a statement at its headings of the second level.

    Args:
        markdown: Content of ``PRIVACY.md``; every line is one block, as ``privacy.prose`` writes.

    Returns:
        Heading, empty for what stands before the first one, and HTML of each part.
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in markdown.splitlines():
        if line.startswith("## "):
            found.append((line[3:], []))
        elif not line.startswith("# "):
            found[-1][1].append(line)
    return [(heading, Markup("\n").join(_blocks(lines))) for heading, lines in found]


def _blocks(lines: list[str]) -> Iterator[Markup]:
    for mark, group in groupby(lines, lambda line: line[:2] if line[:2] in ("- ", "| ") else ""):
        block = list(group)
        if mark == "- ":
            items = Markup("").join(Markup("<li>{}</li>").format(marked(li[2:])) for li in block)
            yield Markup("<ul>{}</ul>").format(items)
        elif mark == "| ":
            yield _table(
                [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block]
            )
        else:
            yield from (Markup("<p>{}</p>").format(marked(line)) for line in block if line)


def _table(rows: list[list[str]]) -> Markup:
    """A table whose second row is the line below the head."""
    head = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(
            Markup(' class="words"') if place == 0 else "", marked(cell)
        )
        for place, cell in enumerate(rows[0])
    )
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            marked(first), Markup("").join(Markup("<td>{}</td>").format(marked(c)) for c in rest)
        )
        for first, *rest in rows[2:]
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Bounds of the statement">'
        '<table class="narrow"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, body)


def marked(text: str) -> Markup:
    """Escaped text, with code where single back quotes say so."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def breakable(name: str) -> Markup:
    """A name that may be broken after a stroke or an underscore, and nowhere else."""
    return Markup(re.sub(r"([/_])", r"\1<wbr>", str(escape(name))))
