"""Formulas as MathML, which browsers show themselves: no script, no network."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.transforms.post_transforms import SphinxPostTransform


class Glue(SphinxPostTransform):
    """Holds a formula and the mark behind it together, so that no line begins with a comma."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_):
        for formula in list(self.document.findall(nodes.math)):
            behind = formula.next_node(descend=False, siblings=True)
            if isinstance(behind, nodes.Text) and behind[:1] in tuple(",.;:?!)"):
                formula.parent.replace(behind, nodes.Text(behind[1:]))
                formula.replace_self(nodes.inline("", "", formula.deepcopy(), nodes.Text(behind[0]), classes=["glued"]))


def _inline(writer, node):
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(writer, node):
    writer.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.add_post_transform(Glue)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
