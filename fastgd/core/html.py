"""Tables for notebooks."""

from collections.abc import Iterable, Sequence


def html_table(title: str, header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A heading and a table as HTML; the texts are escaped. Columns of texts are aligned to the left, those of figures
    to the right. There are no colours, so it suits light and dark pages, and a table that is too wide scrolls."""
    import html  # with a table of all entities, which takes milliseconds

    texts = [[str(cell) for cell in row] for row in rows]
    sides = ["right" if all(map(_is_figure, column)) else "left" for column in zip(*texts, strict=True)]
    sides = sides or ["left"] * len(header)

    def line(cells, tag):
        pairs = zip(cells, sides, strict=True)
        return (
            "<tr>"
            + "".join(f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>' for cell, side in pairs)
            + "</tr>"
        )

    body = "".join(line(row, "td") for row in texts)
    table = f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
    return f'<p>{html.escape(title)}</p><div style="overflow-x: auto">{table}</div>'


def _is_figure(text):
    if text in ("", "..."):
        return True
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
