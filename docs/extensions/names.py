"""The directive `names`: what a module offers, from its docstrings.

    .. names:: fastgd.losses
       :only: huber mae

gives a table of the names in `__all__` of the module (or of those after `only`, or all but those after `without`) with
their first sentences, and an entry for each: signature, docstring, and for classes the methods for users. In place of a
module it may be `fastgd.kernels`. Docstrings of fastgd are plain text, not reStructuredText: this module makes
paragraphs, lists of arguments and tables of them, and of text in backticks a link if there is an entry of that name.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import pathlib
import re
import sys
import types

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

import fastgd

ARGUMENT = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)")  # "batch_size, epochs: what they are"
WITHIN = re.compile(r"(?<=[.;]) (\w+(?:, \w+)*): ")  # an argument that goes on in the line of another
ROW = re.compile(r"(\S+(?:, \S+)*) {2,}(\S.*)")  # "name      what it is"
SOURCE = re.compile(r"\b(arXiv:\d{4}\.\d{4,5}|doi:10\.\d+/(?:[^\s()]|\([^\s()]*\))*\w)")
PLACES = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
BASES = {"Layer": "fastgd.layers.Layer", "Optimizer": "fastgd.optimizers.Optimizer"}  # not names of `fastgd` itself
PROPERTIES = (property, functools.cached_property)
# Where the first sentence ends: at a full stop that is not an abbreviation's, an empty line, or in front of a list.
SENTENCE = re.compile(r"(?<=[^.\s][.])(?<!et al\.)(?<!e\.g\.)(?<!i\.e\.)\s+|\n\s*\n|: *\n")


def docstring(thing):
    """The docstring of what a user meets, or what it is if it is a value without one. The formula of an activation or a
    loss stands at its kernel."""
    if isinstance(thing, types.UnionType):
        return f"One of {', '.join(f'`{_package(one)}.{one.__name__}`' for one in thing.__args__)}."
    if isinstance(thing, tuple):
        return f"`{thing}`."
    if not _is_choice(thing):
        return inspect.getdoc(thing) or ""
    kernels = [*(getattr(thing, "kernels", None) or ()), getattr(thing, "forward", None)]
    texts = [inspect.cleandoc(kernel.reference.__doc__) for kernel in kernels if kernel is not None]
    if texts:
        return "\n\n".join(reversed(texts))  # the last one takes targets as they are, others are special cases
    if hasattr(thing, "forward"):
        return "y = x."  # only the identity has no kernel
    return getattr(thing, "formula", "") or inspect.cleandoc(thing.function.__doc__)


def offered(path):
    """What has this path, a module or `fastgd.kernels`, and the names that it offers."""
    if path == "fastgd.kernels":
        return fastgd.kernels, sorted(vars(fastgd.kernels))
    module = importlib.import_module(path)
    return module, module.__all__


def summary(text):
    """The first sentence of a docstring. One that goes on with a formula of its own lines ends where that begins."""
    first = " ".join(SENTENCE.split(text, maxsplit=1)[0].split())
    if first.endswith(","):
        first = re.split(r"[:;] (?!.*[:;] )", first)[0]
    return first if first.endswith(".") else f"{first}."


def _package(cls):
    return cls.__module__.rpartition(".")[0]


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


def arguments_of(thing):
    """The names of its arguments."""
    try:
        return set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return set()


def members(cls):
    """The methods and properties of a class that are for users, also those of bases, up to one that its package offers
    and that has an entry of its own, such as Optimizer."""
    offered = set(dir(cls))
    for base in cls.__mro__:
        package = sys.modules[_package(base) or base.__module__]
        if base is not cls and getattr(package, base.__name__, None) is base:
            break
        if not base.__module__.startswith("fastgd"):
            continue
        for name, value in vars(base).items():
            is_documented = name[0] != "_" and name in offered and inspect.getdoc(value)
            is_routing = re.fullmatch(r"set_\w+_request", name)  # of metadata, which scikit-learn adds to estimators
            if is_documented and not is_routing and (isinstance(value, PROPERTIES) or inspect.isroutine(value)):
                offered.discard(name)
                # Of the class: a classmethod has its arguments only there.
                yield name, value if isinstance(value, PROPERTIES) else getattr(cls, name)


class Names(SphinxDirective):
    """The directive; see above."""

    required_arguments = 1
    option_spec = {"only": str.split, "without": str.split, "qualify": str}  # noqa: RUF012

    def run(self):
        module, known = offered(self.arguments[0])
        prefix = self.options.get("qualify", self.arguments[0])
        names = self.options.get("only") or [n for n in known if n not in self.options.get("without", ())]
        for file in (__file__, *pathlib.Path(fastgd.__file__).parent.rglob("*.py")):
            self.env.note_dependency(str(file))  # the page is written anew when a docstring has changed
        things = {name: getattr(module, name) for name in names}
        entries = [self.entry(prefix, name, thing) for name, thing in things.items()]
        return [self.table(prefix, things), *(node for group in entries for node in group)]

    def table(self, prefix, things):
        body = nodes.tbody()
        for name, thing in things.items():
            row = nodes.row("", nodes.entry("", nodes.paragraph("", "", self.link(name, f"{prefix}.{name}"))))
            row += nodes.entry("", self.paragraph(summary(docstring(thing))))
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
        content += self.text(docstring(thing), arguments_of(thing))
        for member, value in members(thing) if isclass else ():
            kind, arguments = ("property", "") if isinstance(value, PROPERTIES) else ("method", signature(value))
            option = "classmethod" if getattr(value, "__self__", None) is thing else ""
            inner = self.declare(kind, prefix, f"{name}.{member}{arguments}", option)
            inner[-1][-1] += self.text(inspect.getdoc(value), arguments_of(value))
            content += inner
        return made

    def declare(self, kind, module, text, option=""):
        """The nodes of a name and its signature, with an empty description."""
        parent = nodes.Element()
        lines = [f".. py:{kind}:: {text}", f"   :module: {module}", *([f"   :{option}:"] if option else [])]
        self.state.nested_parse(StringList(lines, "names"), 0, parent)
        return parent.children

    def text(self, text, arguments):
        """A docstring as nodes; the names of the arguments."""
        made = []
        for block in re.split(r"\n\s*\n", text) if text else ():
            lines = block.splitlines()
            rows = [ROW.fullmatch(line) for line in lines if line[:1] != " "]
            if all(line[:1] == " " for line in lines):
                indent = min(len(line) - len(line.lstrip()) for line in lines)
                code = "\n".join(line[indent:] for line in lines)
                made.append(nodes.literal_block("", code, language="python" if _is_python(code) else "text"))
            elif all(rows):
                made.append(self.definitions(self.items(lines, ROW)))
            else:
                made += self.paragraphs(lines, arguments)
        return made

    def paragraphs(self, lines, arguments):
        """Text, then arguments: a line begins an argument, and the indented lines after it go on with it."""

        def begins(i):
            found = ARGUMENT.fullmatch(lines[i])
            return found is not None and arguments >= {name.strip("*") for name in found[1].split(", ")}

        # A line in the middle of a sentence begins none: "Further | options: see `Optimizer`."
        starts = (i for i in range(len(lines)) if begins(i) and (i == 0 or lines[i - 1][-1] in ".:;"))
        first = next(starts, len(lines))
        if first:
            (_, text), *more = self.apart("", " ".join(line.strip() for line in lines[:first]), arguments)
            yield self.paragraph(text)
            if more:
                yield self.definitions(more)
        if first < len(lines):
            end = first + 1
            while end < len(lines) and (lines[end][:1] == " " or begins(end)):
                end += 1
            items = self.items(lines[first:end], ARGUMENT)
            yield self.definitions([part for item in items for part in self.apart(*item, arguments)])
            yield from self.paragraphs(lines[end:], arguments) if end < len(lines) else ()

    def items(self, lines, pattern):
        """[(name, text)] of lines that begin an item, and of the indented ones that continue it. If the first ends with
        a colon, the others are a list, and stay lines."""
        made = []
        for line in lines:
            found = pattern.fullmatch(line)
            if found and line[:1] != " ":
                made.append([found[1], found[2]])
            else:
                is_list = made[-1][1].partition("\n")[0].endswith(":")
                made[-1][1] += "\n" + line if is_list else " " + line.strip()
        return made

    def apart(self, name, text, arguments):
        """[(name, text)] of an item, and of the arguments that its text goes on with."""
        made, begin = [[name, text]], 0
        for found in WITHIN.finditer(text):
            if arguments >= set(found[1].split(", ")):
                made[-1][1] = text[begin : found.start()].rstrip(";")
                begin = found.end()
                made.append([found[1], text[begin:]])
        return made

    def definitions(self, items):
        made = nodes.definition_list(classes=["arguments"])
        for name, text in items:
            term = nodes.term("", "", nodes.literal("", name.replace("`", "")))
            first, *points = text.split("\n")
            definition = nodes.definition("", self.paragraph(first), *([self.bullets(points)] if points else []))
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
        """Text, in which what stands in backticks is code, and papers are links."""
        for i, part in enumerate(text.split("`")):
            if i % 2:
                yield self.link(part, part)
                continue
            for k, piece in enumerate(SOURCE.split(part)):
                kind, _, name = piece.partition(":")
                if piece:
                    yield nodes.reference("", piece, refuri=PLACES[kind] + name) if k % 2 else nodes.Text(piece)

    def link(self, text, target):
        """Code that is a link, if there is an entry for it."""
        target = target.partition("(")[0]
        target = BASES.get(target, f"fastgd.kernels.{target}" if hasattr(fastgd.kernels, target) else target)
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
