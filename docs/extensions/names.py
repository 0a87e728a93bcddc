"""The directive `names`: what a module offers, from its docstrings.

    .. names:: fastgd.losses
       :only: huber mae

gives a table of the names in `__all__` of the module (or of those after `only`, or all but those after `without`) with
their first sentences, and an entry for each: signature, docstring, and for classes the methods for users. Docstrings of
fastgd are plain text, not reStructuredText: this module makes paragraphs, lists of arguments and tables of them, and of
text in backticks a link if there is an entry of that name.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import sys

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

ARGUMENT = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)")  # "batch_size, epochs: what they are"
ROW = re.compile(r"(\S+(?:, \S+)*) {2,}(\S.*)")  # "name      what it is"
PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
PROPERTIES = (property, functools.cached_property)
SENTENCE = re.compile(r"(?<=[^.\s][.])\s+(?=[A-Z`\"])|\n\s*\n|: *\n")


def docstring(thing):
    """The docstring of what a user meets. The formula of an activation or a loss stands at its kernel."""
    if not _is_choice(thing):
        return inspect.getdoc(thing) or ""
    kernels = [*(getattr(thing, "kernels", None) or ()), getattr(thing, "forward", None)]
    texts = [inspect.cleandoc(kernel.reference.__doc__) for kernel in kernels if kernel is not None]
    if texts:
        return "\n\n".join(reversed(texts))  # the last one takes targets as they are, others are special cases
    if hasattr(thing, "forward"):
        return "y = x."  # only the identity has no kernel
    return getattr(thing, "formula", "") or inspect.cleandoc(thing.function.__doc__)


def _is_choice(thing):
    """An activation, a loss, a metric, an initializer: an object with a name and parameters."""
    return dataclasses.is_dataclass(thing) and not isinstance(thing, type) and hasattr(thing, "parameters")


def signature(thing):
    """Arguments and their defaults, without types: the docstrings name them in words."""
    if _is_choice(thing):
        return f"({', '.join(f'{name}={value!r}' for name, value in thing.parameters.items())})"
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return "()"
    shown = [p for p in found.parameters.values() if p.name != "self" and p.name[0] != "_"]
    arguments = [p.replace(annotation=p.empty) for p in shown]
    text = str(inspect.Signature(arguments))
    return re.sub(r"<factory>|<[^<>]*>", "...", text)


def members(cls):
    """The methods and properties of a class that are for users, also those of bases, up to one that its package offers
    and that has an entry of its own, such as Optimizer."""
    offered = set(dir(cls))
    for base in cls.__mro__:
        package = sys.modules[base.__module__.rpartition(".")[0] or base.__module__]
        if base is not cls and getattr(package, base.__name__, None) is base:
            break
        if not base.__module__.startswith("fastgd"):
            continue
        for name, value in vars(base).items():
            is_documented = name[0] != "_" and name in offered and inspect.getdoc(value)
            if is_documented and (isinstance(value, PROPERTIES) or (inspect.isroutine(value) and _is_ours(cls, name))):
                offered.discard(name)
                yield name, value


def _is_ours(cls, name):
    """Whether a method was written here: scikit-learn puts some of its own into its subclasses."""
    return (getattr(getattr(cls, name), "__module__", None) or "fastgd").startswith("fastgd")


class Names(SphinxDirective):
    """The directive; see above."""

    required_arguments = 1
    option_spec = {"only": str.split, "without": str.split, "qualify": str}  # noqa: RUF012

    def run(self):
        module = importlib.import_module(self.arguments[0])
        prefix = self.options.get("qualify", self.arguments[0])
        names = self.options.get("only") or [n for n in module.__all__ if n not in self.options.get("without", ())]
        things = {name: getattr(module, name) for name in names}
        entries = [self.entry(prefix, name, thing) for name, thing in things.items()]
        return [self.table(prefix, things), *(node for group in entries for node in group)]

    def table(self, prefix, things):
        body = nodes.tbody()
        for name, thing in things.items():
            first = SENTENCE.split(docstring(thing), maxsplit=1)[0]
            row = nodes.row("", nodes.entry("", nodes.paragraph("", "", self.link(name, f"{prefix}.{name}"))))
            row += nodes.entry("", self.paragraph(" ".join(first.split()).rstrip(",")))
            body += row
        group = nodes.tgroup("", nodes.colspec(colwidth=30), nodes.colspec(colwidth=70), body, cols=2)
        return nodes.table("", group, classes=["names"])

    def entry(self, prefix, name, thing):
        isclass, callable_ = isinstance(thing, type), callable(thing)
        kind = "class" if isclass else "function" if callable_ and not _is_choice(thing) else "data"
        made = self.declare(
            kind if kind != "data" or not thing_has_arguments(thing) else "function",
            prefix,
            f"{name}{signature(thing) if callable_ else ''}",
        )
        content = made[-1][-1]
        content += self.text(docstring(thing))
        for member, value in members(thing) if isclass else ():
            is_property = isinstance(value, PROPERTIES)
            arguments = "" if is_property else signature(getattr(thing, member))
            option = "classmethod" if isinstance(value, classmethod) else ""
            kind = "property" if is_property else "method"
            inner = self.declare(kind, prefix, f"{name}.{member}{arguments}", option)
            inner[-1][-1] += self.text(inspect.getdoc(value))
            content += inner
        return made

    def declare(self, kind, module, text, option=""):
        """The nodes of a name and its signature, with an empty description."""
        parent = nodes.Element()
        lines = [f".. py:{kind}:: {text}", f"   :module: {module}", *([f"   :{option}:"] if option else [])]
        self.state.nested_parse(StringList(lines, "names"), 0, parent)
        return parent.children

    def text(self, text):
        """A docstring as nodes."""
        made = []
        for number, block in enumerate(re.split(r"\n\s*\n", text) if text else ()):
            lines = block.splitlines()
            rows = [ROW.fullmatch(line) for line in lines if line[:1] != " "]
            if all(line[:1] == " " for line in lines):
                indent = min(len(line) - len(line.lstrip()) for line in lines)
                code = "\n".join(line[indent:] for line in lines)
                made.append(nodes.literal_block("", code, language="python" if _is_python(code) else "text"))
            elif all(rows):
                made.append(self.definitions(self.items(lines, ROW)))
            else:
                made += self.paragraphs(lines, is_first=number == 0)
        return made

    def paragraphs(self, lines, is_first=False):
        """Text, then arguments: a line begins an argument, and the indented lines after it go on with it. Text before
        an argument ends with a sentence, and what a docstring begins with is no argument ("Adam: m <- ...")."""
        starts = [
            i
            for i, line in enumerate(lines)
            if ARGUMENT.fullmatch(line) and (lines[i - 1].endswith((".", ":")) if i else not is_first)
        ]
        first = starts[0] if starts else len(lines)
        if first:
            yield self.paragraph(" ".join(line.strip() for line in lines[:first]))
        if starts:
            end = first + 1
            while end < len(lines) and (lines[end][:1] == " " or ARGUMENT.fullmatch(lines[end])):
                end += 1
            yield self.definitions(self.items(lines[first:end], ARGUMENT))
            if end < len(lines):
                if not lines[end - 1].endswith((".", ".)")):
                    raise self.error(f"indent what continues the text of an argument: {lines[end]!r}")
                yield from self.paragraphs(lines[end:])

    def items(self, lines, pattern):
        """[(name, lines)] of lines that begin an item, and of the indented ones that continue it."""
        made = []
        for line in lines:
            found = pattern.fullmatch(line)
            if found and line[:1] != " ":
                made.append((found[1], [found[2]]))
            else:
                made[-1][1].append(line)
        return made

    def definitions(self, items):
        made = nodes.definition_list(classes=["arguments"])
        for name, lines in items:
            term = nodes.term("", "", nodes.literal("", name.replace("`", "")))
            definition = nodes.definition()
            if lines[0].endswith(":") and lines[1:]:
                definition += [self.paragraph(lines[0]), self.bullets(lines[1:])]
            else:
                definition += self.paragraph(" ".join(line.strip() for line in lines))
            made += nodes.definition_list_item("", term, definition)
        return made

    def bullets(self, lines):
        """A list: each line, and the lines after it that are indented further."""
        indent = min(len(line) - len(line.lstrip()) for line in lines)
        points = []
        for line in lines:
            if line[indent] == " ":
                points[-1] += " " + line.strip()
            else:
                points.append(line.strip())
        return nodes.bullet_list("", *(nodes.list_item("", self.paragraph(point)) for point in points))

    def paragraph(self, text):
        """Quotation marks stay as they are: most are Python's."""
        return nodes.paragraph("", "", *self.inline(text), support_smartquotes=False)

    def inline(self, text):
        """Text, in which what stands in backticks is code, and the number of a paper is a link."""
        for i, part in enumerate(text.split("`")):
            if i % 2:
                yield self.link(part, part)
                continue
            for j, piece in enumerate(PAPER.split(part)):
                if j % 2:
                    yield nodes.reference("", f"arXiv:{piece}", refuri=f"https://arxiv.org/abs/{piece}")
                elif piece:
                    yield nodes.Text(piece)

    def link(self, text, target):
        """Code that is a link, if there is an entry for it."""
        target = target.partition("(")[0]
        target = target if target.startswith("fastgd.") else f"fastgd.{target}"
        link = addnodes.pending_xref(
            "", nodes.literal("", text), refdomain="py", reftype="obj", reftarget=target, refdoc=self.env.docname
        )
        return link


def _is_python(code):
    """Else it is a formula."""
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def thing_has_arguments(thing):
    return _is_choice(thing) and bool(thing.parameters)


def setup(app):
    app.add_directive("names", Names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
