"""Tables for notebooks."""

from collections.abc import Iterable, Sequence


def html_table(title: str, header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A heading and a table as HTML; the texts are escaped."""
    import html  # with a table of all entities, which takes milliseconds

    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<p>{html.escape(title)}</p><table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
