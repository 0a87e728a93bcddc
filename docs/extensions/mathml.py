"""Formulas as MathML, which browsers show themselves: no script, no network."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

WORD_JOINER = "\u2060"  # lets no line begin with the comma behind a formula


def _inline(writer, node):
    follower = node.next_node(descend=False, siblings=True)
    is_glued = follower is not None and follower.astext()[:1] in tuple(",.;:?!)")
    writer.body.append(convert(node.astext()) + (WORD_JOINER if is_glued else ""))
    raise SkipNode


def _block(writer, node):
    writer.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>\n')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
