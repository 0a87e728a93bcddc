"""Mutation testing of the Python files of fastgd/: change one token, and see whether a test fails.

    python tests/mutants.py --seed 1 --count 450

draws that many mutants, spread over the files in proportion to their tokens. It prints the mutants that no test kills
and the share killed in each file. The first run records which test executes which line; later runs record only the test
files that have changed. The same seed draws the same mutants from the same source. The script needs the extra `test`,
coverage, a POSIX system and a fastgd/ that contains the compiled modules. It writes only to the folder --work.
`--again` skips the mutants that the last run with this seed killed.

mutants_tokens.py says which tokens change. A mutant is run against the tests that execute its line: the fastest case of
each test function, then the second fastest, and so on, until they add up to --seconds. A line that runs at import is
tested by the tests of its function, its class, or the functions that use its constant. Coverage does not see what Numba
compiles, so COMPILED names the tests of such functions. Each mutant runs on a copy of the package, in a process forked
from one that has imported the libraries. A crash or a hang counts as killed.

mutants_equivalent.txt lists the survivors that compute the same as the original, or differ only in what nobody
promises. Each has four lines: file and function, the line before, the line after, the reason; an empty line follows.
"""

import argparse
import ast
import collections
import hashlib
import importlib
import json
import os
import pathlib
import py_compile
import shutil
import signal
import sqlite3
import sys
import time

from mutants_tokens import draw

ROOT = pathlib.Path(__file__).parents[1]
ALWAYS = "tests/test_defaults.py"  # of what runs at import, which no test executes
HANG = 180  # seconds
EQUIVALENT = ROOT / "tests" / "mutants_equivalent.txt"
PRELOADED = [
    "numpy", "numba", "scipy.special", "pytest", "hypothesis", "safetensors.numpy", "tqdm.auto", "pandas", "onnx",
    "sklearn.utils.estimator_checks", "sklearn.model_selection", "matplotlib.figure", "pyarrow.parquet", "pyarrow.csv",
    "onnxruntime",
]  # fmt: skip
COMPILE_MOST = ("core/fingerprint", "core/reads", "custom", "engine/plan raise_fault")  # files and functions
# Test files of modules and folders that have another name.
OWN_TESTS = {
    "cli/self_check": "kernels", "core/buffers": "engine", "core/kernel": "kernels", "core/matrix_product": "kernels",
    "explore/gradient_check": "gradients", "explore/range_test": "finder", "explore/surface": "plots",
    "models/language": "gpt2", "plots/images": "plots_of_images", "plots/text": "plots_of_text",
    "sklearn/training": "sklearn", "tables/text": "table_text",
}  # fmt: skip
# Tests of what Numba compiles are those of the kernel of its name, or else of its file: arguments of pytest.
OF_KERNEL = ["tests/test_kernels.py", "-k"]
LANGUAGE = ["tests/test_custom_meaning.py", "-m", ""]
# Test files, all of whose tests are slow, that test more than what Numba compiles.
SLOW = ["tests/test_custom_faults.py", "tests/test_custom_follows.py", "tests/test_custom_names.py"]
COMPILED = {
    "": [*OF_KERNEL, "numba and float64"],
    "engine/gradient": [
        "tests/test_update.py", "tests/test_clipping.py", "tests/test_kernels.py",
        "-k", "numba and (clip_gradient or clip_value or limits) and not threads",
    ],
    "layers/augmentation": ["tests/test_augmentation.py", "-k", "numba and (body or padding or probabilities)"],
    "layers/dropout": [*OF_KERNEL, "numba and float64 and dropout"],
    "optimizers/low_memory": [*OF_KERNEL, "numba and (rounds or float32 and (adam_step or momentum_step))"],
    "__main__": ["tests/test_cli.py", "-k", "not train"],
    "core/jit_gemm": ["tests/test_kernels.py", "tests/test_sums.py", "-k", "numba and (dense or products or sums)"],
    "core/jit": LANGUAGE,
    "core/jit_checks": LANGUAGE,
    "core/jit_python": LANGUAGE,
}  # fmt: skip


def forked(work, arguments, seconds, plugins=()):
    """Runs pytest on the copy in a process of its own: its exit code, or "hang"."""
    pid = os.fork()
    if not pid:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background ignore
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
        if sys.gettrace() is None:  # after a test that traces
            self.coverage.stop()
            self.coverage.start()
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


def lines_of_functions(path):
    """Mask of the lines in functions. The others run at import: of a module that is imported late, in whichever test
    comes first."""
    lines = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            first = node.body if isinstance(node, ast.Lambda) else node.body[0]
            lines |= {*range(first.lineno, node.end_lineno + 1)}
    return sum(1 << line for line in lines)


def record(work):
    """Which test executes which lines, {file: [(test, mask of its lines)]}, and the seconds of each test."""
    executed, times = collections.defaultdict(list), {}
    package = work / "copy" / "fastgd"
    masks = {path.relative_to(package).as_posix(): lines_of_functions(path) for path in package.rglob("*.py")}
    paths = sorted((work / "copy" / "tests").glob("test_*.py"))
    for path in sorted(paths, key=lambda path: f"tests/{path.name}" in [*LANGUAGE, *SLOW]):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        data, took = work / f"{path.stem}-{digest}.coverage", work / f"{path.stem}-{digest}.json"
        if not took.exists():
            for old in work.glob(f"{path.stem}-*"):
                old.unlink()
            # To compile takes each process long: Numba's cases serve where there are no others.
            name = f"tests/{path.name}"
            arguments = [] if name in LANGUAGE else ["-k", "not numba"]
            arguments += ["-m", ""] if name in [*LANGUAGE, *SLOW] else []
            code = forked(work, [f"tests/{path.name}", *arguments], 3600, [Recorder(data, took)])
            print(f"recorded {path.name}: exit code {code}", flush=True)
        times |= json.loads(took.read_text())
        with sqlite3.connect(data) as database:
            rows = database.execute(
                "select file.path, context.context, numbits from line_bits join file on file.id = file_id "
                "join context on context.id = context_id where context.context != ''"
            )
            for file, test, bits in rows:
                file = file.partition("/copy/fastgd/")[2]
                if lines := int.from_bytes(bits, "little") & masks[file]:
                    executed[file].append((test, lines))
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


def own_tests(name):
    """The test file of a module: that of its name, or else of its folder; "none" if there is neither."""
    folder, _, stem = name.rpartition("/")
    paths = [f"tests/test_{each}.py" for each in (OWN_TESTS.get(name, stem), folder)]
    return next((path for path in paths if (ROOT / path).exists()), "none")


def tests_of(mutant, executed, times, uses, seconds):
    """Arguments of pytest: the tests that execute a mutant, each function's fastest case first."""
    tests, name = set(), mutant.file.with_suffix("").as_posix()
    is_jit = mutant.file.stem.startswith("jit")
    for scope in [] if mutant.compiled or is_jit else [*mutant.scopes, range(1, 2000)]:
        if isinstance(scope, set):
            places = {place for constant in scope for place in uses[constant]}
        else:
            places = {(mutant.file.as_posix(), line) for line in scope}
        for file in {file for file, _ in places}:
            mask = sum(1 << line for of, line in places if of == file)
            tests |= {test for test, bits in executed[file] if bits & mask and test in times}
        if tests:
            break
    if not tests:
        if mutant.compiled and mutant.compiled != "loop" and not is_jit:
            return [*OF_KERNEL, f"numba and float64 and {mutant.compiled}"]
        return COMPILED.get(name, COMPILED[""])
    # What compiles pays in each process for what a recording pays for once.
    compiling = {test for test, _ in executed["core/jit.py"]}
    if name not in COMPILE_MOST and f"{name} {mutant.function}" not in COMPILE_MOST:
        tests = tests - compiling or tests
    own = own_tests(name)  # half of the time is for the test file of the module
    ranked, cases, left = [], collections.Counter(), {True: seconds / 2, False: seconds / 2}
    for test in sorted(tests, key=lambda test: (times[test], test)):
        function = test.partition("[")[0]
        cases[function] += 1
        ranked.append((cases[function], times[test], test))
    chosen = []
    for _, took, test in sorted(ranked):
        is_own = test.startswith(own)
        if took <= left[is_own] or (is_own and left[is_own] == seconds / 2):  # at least one of its own
            left[is_own] -= took
            chosen.append(test)
    return [ALWAYS, *chosen, "-m", ""]


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
    """{(file and function, line before, line after): reason}."""
    blocks = EQUIVALENT.read_text().strip().split("\n\n") if EQUIVALENT.exists() else []
    return {tuple(block.splitlines()[:3]): block.splitlines()[3] for block in blocks}


def run(mutant, work, tests):
    """A line of the results."""
    start = time.monotonic()
    killed = is_killed(mutant, work, tests)
    output = (work / "log").read_text(errors="replace").splitlines()
    if missing := [line for line in output if line.startswith("ERROR: not found")]:
        sys.exit(f"delete {work}: it says of other tests which lines they execute: {missing}")
    if killed == 5:  # pytest's code for no tests
        sys.exit(f"no tests of {mutant.file}, line {mutant.line}: {tests}")
    by = [line for line in output if line.startswith(("FAILED", "ERROR"))][:1]
    name = [mutant.file.as_posix(), mutant.line, mutant.before, mutant.after]
    took = round(time.monotonic() - start, 1)
    return {"mutant": name, "killed": killed, "tests": len(tests), "took": took, "by": by}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=450)
    parser.add_argument("--seconds", type=float, default=6.0, help="of tests for a mutant")
    parser.add_argument("--only", nargs="*", help="files and folders, such as core/jit or core")
    parser.add_argument("--again", action="store_true", help="skip those that the last run with this seed killed")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "mutants", help="folder to write to")
    options = parser.parse_args()
    work = options.work.resolve()
    shutil.rmtree(work / "copy", ignore_errors=True)
    shutil.copytree(ROOT, work / "copy", ignore=shutil.ignore_patterns(".*", "build", "__pycache__"))
    for module in PRELOADED:
        importlib.import_module(module)
    executed, times = record(work)
    equivalent, uses = read_equivalent(), uses_of_names(ROOT / "fastgd")
    results, before = work / f"seed-{options.seed}.jsonl", []
    if options.again:
        before = [json.loads(line) for line in results.read_text().splitlines()]
    killed = {tuple(result["mutant"]): result for result in before if result["killed"]}
    counts = collections.defaultdict(collections.Counter)
    with results.with_suffix(".new").open("w") as log:
        for mutant in draw(ROOT / "fastgd", options.seed, options.count, options.only):
            file = mutant.file.as_posix()
            if (f"{file} {mutant.function}".strip(), mutant.before, mutant.after) in equivalent:
                counts[file]["equivalent"] += 1
                continue
            result = killed.get((file, mutant.line, mutant.before, mutant.after))
            result = result or run(mutant, work, tests_of(mutant, executed, times, uses, options.seconds))
            print(json.dumps(result), file=log, flush=True)
            counts[file]["killed" if result["killed"] else "survived"] += 1
            if not result["killed"]:
                where = f"{file}:{mutant.line} {mutant.function}"
                print(f"{where}\n    {mutant.before}\n    {mutant.after}", flush=True)
    results.with_suffix(".new").replace(results)
    print(f"\n{'file':<28}killed  survived  equivalent")
    for file, count in [*sorted(counts.items()), ("all", sum(counts.values(), collections.Counter()))]:
        share = count["killed"] / max(1, count["killed"] + count["survived"])
        print(f"{file:<28}{count['killed']:>6}{count['survived']:>10}{count['equivalent']:>12}  {share:.1%}")


if __name__ == "__main__":
    main()
