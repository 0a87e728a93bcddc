"""Mutation testing of the Python files of fastgd/: changes one token at a time and sees whether a test fails.

    python tests/mutants.py --seed 1 --count 450

draws that many mutants, spread over the files in proportion to their code, and prints those that no test kills, and
the share killed of each file. The first run records which test executes which line, once for each test file as it
stands, and takes a little longer than the suite; the same seed on the same source draws the same mutants. It needs the
extra `test`, coverage, a POSIX system, and a fastgd/ that holds the compiled modules. It writes only to --work.

A token is a number, an operator of arithmetic, comparison, logic or assignment, True or False, min or max, or the sign
of what a function returns. Left alone are texts, annotations, errors, `__repr__`, and the looks of plots. Where a line
runs when its module is imported, the tests of the function, class or constant it belongs to stand for it; where Numba
compiles a function, which coverage does not see, those of COMPILED. Of the tests that execute a line, each function's
fastest case comes first, then each one's second, until they take --seconds together. Each mutant runs in a process of
its own, forked from one that holds the libraries, on a copy of the package. A crash or a hang kills it, too.

A survivor that computes the same as the original, or differs only in what nobody promises, stands in
mutants_equivalent.txt: the file, the line before, the line after and the reason, one below another, then an empty line.
"""

import argparse
import ast
import bisect
import collections
import hashlib
import importlib
import io
import itertools
import json
import os
import pathlib
import py_compile
import random
import shutil
import signal
import sqlite3
import sys
import time
import tokenize

ROOT = pathlib.Path(__file__).parents[1]
ALWAYS = "tests/test_defaults.py"  # of what runs at import, which no test executes
HANG = 180  # seconds
EQUIVALENT = ROOT / "tests" / "mutants_equivalent.txt"
PRELOADED = [
    "numpy", "numba", "scipy.special", "pytest", "hypothesis", "safetensors.numpy", "tqdm.auto", "pandas", "onnx",
    "sklearn.utils.estimator_checks", "sklearn.model_selection", "matplotlib.figure", "pyarrow.parquet", "pyarrow.csv",
    "onnxruntime",
]  # fmt: skip
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
# Decorators under which Numba compiles a function. Tests of such code are those of the kernel of its name, or else of
# its file, as arguments of pytest.
COMPILES = {"loop", "overload", "intrinsic", "register_jitable", "jit"}
OF_KERNEL = ["tests/test_kernels.py::test_body_matches_reference", "-k"]
LANGUAGE = ["tests/test_custom_meaning.py", "-m", ""]
COMPILED = {
    "": [*OF_KERNEL, "numba and float64"],
    "__main__": ["tests/test_cli.py", "-k", "not train"],
    "jit_gemm": ["tests/test_kernels.py", "-k", "numba and (dense or products)"],
    "jit_checks": LANGUAGE,
    "jit_python": LANGUAGE,
}
# `texts`: what may stand for [start, end) of the file; `scopes`: lines, and outside functions names, that tests run;
# `compiled`: name of the function around that Numba compiles.
Site = collections.namedtuple("Site", "file line start end texts scopes compiled")
Mutant = collections.namedtuple("Mutant", "file line before after source scopes compiled")


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
    scopes = []  # (start, end, scopes, compiled), the innermost last

    def visit(node, around, compiled):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            own = range(first, body[0].lineno if body else node.end_lineno + 1) or [first]
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names = {part.id for d in node.decorator_list for part in ast.walk(d) if isinstance(part, ast.Name)}
                names |= {d.attr for d in node.decorator_list if isinstance(d, ast.Attribute)}
                compiled = compiled or (node.name if names & COMPILES else "")
                around = [range(node.body[0].lineno, node.end_lineno + 1), *around]
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not around:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                around = [{part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}]
            scopes.append((*span(node), [own, *around], compiled))
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
            visit(child, around, compiled)

    visit(ast.parse(source), [], "")
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
            *_, (_, _, inner, compiled) = [s for s in scopes if s[0] <= start < s[1]] or [(0, 0, [[1]], "")]
            sites.append(Site(path, bisect.bisect(starts, start), start, end, texts, inner, compiled))
    return source, sites


def draw(package, seed, count, only):
    """So many mutants of a package, spread over its files in proportion to their tokens, at least one of each."""
    files = {path: sites_of(path) for path in sorted(package.rglob("*.py"))}
    total = sum(len(sites) for _, sites in files.values())
    for path, (source, sites) in files.items():
        random_of_file = random.Random(f"{seed} {path.relative_to(package)}")
        number = min(len(sites), max(1, round(count * len(sites) / total)))
        for site in sorted(random_of_file.sample(sites, number)):
            changed = source[: site.start] + random_of_file.choice(site.texts) + source[site.end :]
            before, after = (text.splitlines()[site.line - 1].strip() for text in (source, changed))
            if only is None or path.stem in only:
                yield Mutant(path.relative_to(package), site.line, before, after, changed, site.scopes, site.compiled)


def forked(work, arguments, seconds, plugins=()):
    """Runs pytest on the copy in a process of its own: its exit code, or "hang"."""
    pid = os.fork()
    if not pid:
        os.setsid()
        os.chdir(work / "copy")
        with (work / "log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.path[:0] = [str(work / "copy")]
        os.environ["PYTHONPATH"] = str(work / "copy")
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        import pytest

        rewritten = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is among the libraries
        arguments = ["-q", "-W", rewritten, "-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=no", *arguments]
        os._exit(int(pytest.main(arguments, plugins=list(plugins))))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hang"


class Recorder:
    """Plugin of pytest: the lines of each test, and how long it takes."""

    def __init__(self, data, times):
        import coverage

        self.coverage = coverage.Coverage(data_file=str(data), source=["fastgd"], config_file=False)
        self.times, self.path = collections.Counter(), times
        self.failed = set()

    def pytest_sessionstart(self):
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid):
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report):
        self.times[report.nodeid] += report.duration
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_runtest_logfinish(self):
        self.coverage.switch_context("")

    def pytest_sessionfinish(self):
        self.coverage.stop()
        self.coverage.save()
        self.path.write_text(json.dumps({test: t for test, t in self.times.items() if test not in self.failed}))


def record(work):
    """Which test executes which lines, {file: [(test, mask of its lines)]}, and the seconds of each test."""
    executed, times = collections.defaultdict(list), {}
    paths = sorted((work / "copy" / "tests").glob("test_*.py"))
    for path in sorted(paths, key=lambda path: f"tests/{path.name}" in LANGUAGE):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        data, took = work / f"{path.stem}-{digest}.coverage", work / f"{path.stem}-{digest}.json"
        if not took.exists():
            for old in work.glob(f"{path.stem}-*"):
                old.unlink()
            # To compile takes each process long: Numba's cases serve where there are no others.
            arguments = ["-k", "not numba"] if f"tests/{path.name}" not in LANGUAGE else ["-m", ""]
            code = forked(work, [f"tests/{path.name}", *arguments], 3600, [Recorder(data, took)])
            print(f"recorded {path.name}: exit code {code}", flush=True)
        times |= json.loads(took.read_text())
        with sqlite3.connect(data) as database:
            rows = database.execute(
                "select file.path, context.context, numbits from line_bits join file on file.id = file_id "
                "join context on context.id = context_id where context.context != ''"
            )
            for file, test, bits in rows:
                executed[file.partition("/copy/fastgd/")[2]].append((test, int.from_bytes(bits, "little")))
    return executed, times


def uses_of_names(package):
    """Where functions of the package use a name, {name: {(file, line)}}."""
    uses = collections.defaultdict(set)
    for path in package.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
                if isinstance(node, (ast.Name, ast.Attribute)):
                    name = node.id if isinstance(node, ast.Name) else node.attr
                    uses[name].add((path.relative_to(package).as_posix(), node.lineno))
    return uses


def tests_of(mutant, executed, times, uses, seconds):
    """Arguments of pytest: the tests that execute a mutant, each function's fastest case first."""
    tests = set()
    for scope in [] if mutant.compiled else [*mutant.scopes, range(1, 2000)]:
        if isinstance(scope, set):
            places = {place for name in scope for place in uses[name]}
        else:
            places = {(mutant.file.as_posix(), line) for line in scope}
        for file in {file for file, _ in places}:
            mask = sum(1 << line for of, line in places if of == file)
            tests |= {test for test, bits in executed[file] if bits & mask and test in times}
        if tests:
            break
    if not tests:
        of_file = COMPILED.get(mutant.file.stem)
        return of_file or (
            [*OF_KERNEL, f"numba and float64 and {mutant.compiled}"] if mutant.compiled else COMPILED[""]
        )
    ranked, cases = [], collections.Counter()
    for test in sorted(tests, key=lambda test: (times[test], test)):
        function = test.partition("[")[0]
        cases[function] += 1
        ranked.append((cases[function], times[test], test))
    chosen = []
    for _, took, test in sorted(ranked):
        if took <= seconds:
            seconds -= took
            chosen.append(test)
    return [f"{ALWAYS}", *chosen]


def is_killed(mutant, work, tests):
    """How the tests kill a mutant: the exit code of pytest, or "hang"; 0 if they do not."""
    path = work / "copy" / "fastgd" / mutant.file
    compiled = pathlib.Path(importlib.util.cache_from_source(path))
    original = path.read_bytes()
    compiled.unlink(missing_ok=True)
    path.write_text(mutant.source)
    try:
        return forked(work, ["-x", *tests], HANG)
    finally:
        path.write_bytes(original)
        py_compile.compile(str(path))


def read_equivalent():
    """{(file, line before, line after): reason}."""
    blocks = EQUIVALENT.read_text().strip().split("\n\n") if EQUIVALENT.exists() else []
    return {tuple(block.splitlines()[:3]): block.splitlines()[3] for block in blocks}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=450)
    parser.add_argument("--seconds", type=float, default=6.0, help="of tests for a mutant")
    parser.add_argument("--only", nargs="*", help="names of files, without .py")
    parser.add_argument("--again", action="store_true", help="without those that the last run of this seed killed")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "mutants", help="folder to write to")
    options = parser.parse_args()
    work = options.work.resolve()
    shutil.rmtree(work / "copy", ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "build", "__pycache__")
    shutil.copytree(ROOT, work / "copy", ignore=ignored)
    for module in PRELOADED:
        importlib.import_module(module)
    executed, times = record(work)
    equivalent, uses = read_equivalent(), uses_of_names(ROOT / "fastgd")
    results = work / f"seed-{options.seed}.jsonl"
    killed_before = {}
    if options.again:
        before = [json.loads(line) for line in results.read_text().splitlines()]
        killed_before = {tuple(result["mutant"]): result for result in before if result["killed"]}
    counts = collections.defaultdict(collections.Counter)
    with results.with_suffix(".new").open("w") as log:
        for mutant in draw(ROOT / "fastgd", options.seed, options.count, options.only):
            name = (str(mutant.file), mutant.before, mutant.after)
            if name in killed_before:
                counts[name[0]]["killed"] += 1
                print(json.dumps(killed_before[name]), file=log, flush=True)
                continue
            if name in equivalent:
                counts[name[0]]["equivalent"] += 1
                continue
            tests = tests_of(mutant, executed, times, uses, options.seconds)
            start = time.monotonic()
            killed = is_killed(mutant, work, tests)
            counts[name[0]]["killed" if killed else "survived"] += 1
            last = [
                line
                for line in (work / "log").read_text(errors="replace").splitlines()
                if "FAILED" in line or "ERROR" in line
            ]
            result = {"mutant": name, "line": mutant.line, "killed": killed, "tests": len(tests), "by": last[:1]}
            print(json.dumps(result | {"took": round(time.monotonic() - start, 1)}), file=log, flush=True)
            if not killed:
                print(f"{name[0]}:{mutant.line}: {name[1]}\n    -> {name[2]}", flush=True)
    results.with_suffix(".new").replace(results)
    print(f"\n{'file':<28}killed  survived  equivalent")
    for file, count in [*sorted(counts.items()), ("all", sum(counts.values(), collections.Counter()))]:
        share = count["killed"] / max(1, count["killed"] + count["survived"])
        print(f"{file:<28}{count['killed']:>6}{count['survived']:>10}{count['equivalent']:>12}  {share:.1%}")


if __name__ == "__main__":
    main()
