"""The tokens of Python files that mutants.py changes, and what it puts in their place."""

import ast
import bisect
import collections
import io
import itertools
import random
import tokenize

SWAPS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "**": "*", "%": "*", "@": "*", "<<": ">>", ">>": "<<",
    "&": "|", "|": "&", "^": "&", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not",
    "is not": "is", "in": "not in", "not in": "in", "and": "or", "or": "and", "+=": "-=", "-=": "+=", "*=": "/=",
    "/=": "*=", "//=": "*=", "**=": "*=", "|=": "&=", "&=": "|=", "^=": "&=",
}  # fmt: skip
WORDS = {"True": "False", "False": "True", "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
# Calls whose arguments are texts for people; functions and keywords that say how something looks.
TEXTS = {"type_error", "value_error", "print", "add_note", "add_argument", "warn"}
LOOKS = {"__repr__", "_figure", "_finish", "_log", "_ticks", "_style", "_legend_below"}
LOOKING = {"alpha", "linewidth", "markersize", "fontsize", "figsize", "width", "height", "pad", "zorder", "dpi"}
# Decorators under which Numba compiles a function, beside those called loop...
COMPILES = {"loop", "overload", "intrinsic", "register_jitable", "jit"}
# `texts`: what may stand for [start, end) of the file; `scopes`: lines, and outside functions names, that tests run;
# `compiled`: name of the function around that Numba compiles; `function`: of the innermost function around.
Site = collections.namedtuple("Site", "file line start end texts scopes compiled function")
Mutant = collections.namedtuple("Mutant", "file line before after source scopes compiled function")


def numbers_beside(text):
    """What may stand for a number."""
    value = ast.literal_eval(text)
    if isinstance(value, int):
        return {0: ["1"], 1: ["0", "2"]}.get(value, [str(value + 1), str(value - 1)])
    return [repr(value * 1.01 if value else 0.01)]


def is_text(node):
    """Whether an expression puts texts together."""
    parts = node.left, node.right
    return any(isinstance(p, ast.JoinedStr) or isinstance(getattr(p, "value", None), str) for p in parts)


def sites_of(path):
    """Every token of a file that may change."""
    source = path.read_text()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def place(line, column):
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def span(node):
        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)

    closed, gaps, found = [], [], []  # spans left alone, spans between operands, (start, end, texts)
    scopes = []  # (start, end, scopes, compiled, function), the innermost last

    def visit(node, around, compiled, function):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            own = range(first, body[0].lineno if body else node.end_lineno + 1) or [first]
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names = {part.id for d in node.decorator_list for part in ast.walk(d) if isinstance(part, ast.Name)}
                names |= {d.attr for d in node.decorator_list if isinstance(d, ast.Attribute)}
                compiled = compiled or (node.name if names & COMPILES else "")
                if node.name.lstrip("_").startswith("loop"):
                    compiled = "loop"
                around = [range(node.body[0].lineno, node.end_lineno + 1), *around]
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not around:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                around = [{part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}]
            if isinstance(node, ast.FunctionDef):
                function = node.name
            scopes.append((*span(node), [own, *around], compiled, function))
        name = getattr(node, "func", None)
        name = getattr(name, "attr", getattr(name, "id", None))
        if (
            isinstance(node, (ast.Raise, ast.JoinedStr))
            or (isinstance(node, ast.FunctionDef) and node.name in LOOKS)
            or (isinstance(node, ast.Call) and name in TEXTS)
            or (isinstance(node, ast.keyword) and node.arg in LOOKING)
        ):
            closed.append(span(node))
        for note in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if note is not None:
                closed.append(span(note))
        closed.extend(span(decorator) for decorator in getattr(node, "decorator_list", []))
        if isinstance(node, ast.BinOp):
            if not is_text(node):
                gaps.append((span(node.left)[1], span(node.right)[0]))
        elif isinstance(node, (ast.Compare, ast.BoolOp)):
            operands = node.values if isinstance(node, ast.BoolOp) else [node.left, *node.comparators]
            gaps.extend((span(a)[1], span(b)[0]) for a, b in itertools.pairwise(operands))
        elif isinstance(node, ast.AugAssign):
            gaps.append((span(node.target)[1], span(node.value)[0]))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            start = span(node)[0]
            found.append((start, start + len("not " if isinstance(node.op, ast.Not) else "-"), [""]))
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.BinOp) and not is_text(node.value):
            start, end = span(node.value)
            found.append((start, end, [f"-({source[start:end]})"]))
        for child in ast.iter_child_nodes(node):
            visit(child, around, compiled, function)

    visit(ast.parse(source), [], "", "")
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for token, following in itertools.pairwise(tokens):
        start, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        text = token.string
        if token.type == tokenize.NUMBER:
            found.append((start, end, numbers_beside(text)))
        elif text in WORDS and token.type == tokenize.NAME:
            found.append((start, end, [WORDS[text]]))
        elif any(a <= start and end <= b for a, b in gaps):
            if (text, following.string) in (("is", "not"), ("not", "in")):
                text, end = f"{text} {following.string}", starts[following.end[0] - 1] + following.end[1]
            if text in SWAPS and not source[:start].endswith("not "):
                found.append((start, end, [SWAPS[text]]))
    sites = []
    for start, end, texts in sorted(found):
        if not any(a <= start and end <= b for a, b in closed):
            *_, (_, _, *around) = [s for s in scopes if s[0] <= start < s[1]] or [(0, 0, [[1]], "", "")]
            sites.append(Site(path, bisect.bisect(starts, start), start, end, texts, *around))
    return source, sites


def draw(package, seed, count, only):
    """So many mutants of a package, spread over its files in proportion to their tokens, at least one of each."""
    files = {path: sites_of(path) for path in sorted(package.rglob("*.py"))}
    total = sum(len(sites) for _, sites in files.values())
    for path, (source, sites) in files.items():
        file = path.relative_to(package)
        names = [name.as_posix() for name in (file.with_suffix(""), *file.parents)]
        random_of_file = random.Random(f"{seed} {file}")
        number = min(len(sites), max(1, round(count * len(sites) / total)))
        for site in sorted(random_of_file.sample(sites, number)):
            changed = source[: site.start] + random_of_file.choice(site.texts) + source[site.end :]
            before, after = (text.splitlines()[site.line - 1].strip() for text in (source, changed))
            if only is None or any(name in only for name in names):
                yield Mutant(file, site.line, before, after, changed, site.scopes, site.compiled, site.function)
