"""The structure of the package: imports point downwards and make no circle, the top level has the public names, and
long files and functions say why. The tests read the sources and run nothing."""

import ast
import functools
import graphlib
import inspect
import pathlib
import re
import types

import pytest

import fastgd

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "fastgd"

# Folders and modules of the top level, from the top down: each imports only what is below it.
ORDER = (
    "__main__", "cli", "sklearn", "torch", "plots", "explore", "onnx", "models", "custom", "network", "training",
    "distributed", "generation", "callbacks", "layers", "optimizers", "engine", "images", "text", "tables", "losses",
    "activations", "initializers", "schedules", "metrics", "data", "core", "errors", "_plan",
)  # fmt: skip
# Imports inside functions, which load a module only when it is used: conveniences of a lower class (net.save,
# history.plot), modules that need an extra, and modules that few programs need (`fastgd.LAZY`).
INSIDE_FUNCTIONS = {
    ("callbacks", "text"),
    ("cli.ranks", "training.ranks"),
    ("core.kernel", "core.jit"),
    ("explore.range_test", "plots"),
    ("explore.sweep", "plots"),
    ("generation.generate", "text"),
    ("network", "images"),
    ("network", "onnx"),
    ("network", "tables"),
    ("network", "tables.prediction"),
    ("network", "text"),
    ("plots.figures", "plots.picture"),
    ("training.checkpoint", "images"),
    ("training.checkpoint", "tables"),
    ("training.checkpoint", "text.vocabulary"),
    ("training.history", "plots"),
    ("training.team", "training.ranks"),
}
# Public modules at the top level.
MODULES = (
    "activations", "callbacks", "custom", "distributed", "images", "initializers", "losses", "metrics", "models",
    "optimizers", "plots", "schedules", "sklearn", "tables", "text", "torch",
)  # fmt: skip
MAX_LINES, MAX_FUNCTION = 400, 60


@functools.cache
def trees():
    """(path, syntax tree) of each module by its name within the package; a folder's are those of its __init__.py."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path, ast.parse(path.read_text())
    return found


def targets(name, path, node):
    """The modules of the package that a statement imports from."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[2] for alias in node.names if alias.name.partition(".")[0] == "fastgd"]
    if not isinstance(node, ast.ImportFrom):
        return []
    if node.level:
        folder = ("fastgd", *name.split(".")) if name else ("fastgd",)
        folder = folder[: len(folder) - node.level + (path.name == "__init__.py")]
    else:
        folder = ()
    base = ".".join([*folder, *filter(None, [node.module])])
    if base.partition(".")[0] != "fastgd":
        return []
    base = base.partition(".")[2]
    modules = [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
    return [module if module in trees() else base for module in modules]


def is_for_types(node):
    """Whether it is `if TYPE_CHECKING:`, whose imports never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def statements(node, inside=False):
    """Yields (statement, whether it is inside a function) of all imports that run."""
    for child in ast.iter_child_nodes(node):
        if is_for_types(child):
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, inside
        yield from statements(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


@functools.cache
def imports():
    """{(module, what it imports): (line, whether inside a function)}, but for the package's own __init__.py."""
    return {
        (name, target): (node.lineno, inside)
        for name, (path, tree) in trees().items()
        if name
        for node, inside in statements(tree)
        for target in targets(name, path, node)
        if target != name
    }


def at_import():
    return {pair: line for pair, (line, inside) in imports().items() if not inside}


def top(module):
    return module.partition(".")[0]


def is_upwards(name, target):
    """Whether an import points to a module above its own in ORDER."""
    return top(name) != top(target) and ORDER.index(top(target)) < ORDER.index(top(name))


def test_the_order_knows_every_folder_and_module():
    assert {top(name) for name in trees() if name} | {"_plan"} == set(ORDER)
    assert len(imports()) > 200
    assert ("", "") not in imports()


def test_imports_point_downwards():
    upwards = {pair for pair in at_import() if is_upwards(*pair)}
    wrong = [f"{trees()[name][0].name}:{at_import()[name, target]} imports {target}" for name, target in upwards]
    assert not wrong


def test_no_module_imports_the_whole_package():
    """`from . import x`, where x is no module, depends on how far __init__.py has run."""
    assert not [pair for pair in at_import() if not pair[1]]


def test_imports_make_no_circle():
    graph = {}
    for name, target in at_import():
        graph.setdefault(name, set()).add(target)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_imports_inside_functions_are_the_known_ones():
    assert {pair for pair, (_, inside) in imports().items() if inside} == INSIDE_FUNCTIONS


def test_a_circle_and_a_wrong_direction_are_noticed():
    assert is_upwards("core.kernel", "network")
    assert is_upwards("data.samples", "losses")
    assert not is_upwards("engine.plan", "engine.program")
    path = PACKAGE / "engine" / "x.py"
    for line, target in {
        "from ..network import Network": "network",
        "from .. import plots": "plots",
        "from . import plan": "engine.plan",
        "from .plan import Plan": "engine.plan",
        "import fastgd.losses": "losses",
        "from fastgd.core import kernel": "core.kernel",
        "from ..layers import Dense": "layers",
    }.items():
        assert targets("engine.x", path, ast.parse(line).body[0]) == [target]
    assert targets("engine.x", path, ast.parse("from numpy import zeros").body[0]) == []
    tree = ast.parse("if TYPE_CHECKING:\n    import a\ndef f():\n    import b\nimport c")
    assert [(node.names[0].name, inside) for node, inside in statements(tree)] == [("b", True), ("c", False)]


# ---- names


def test_the_top_level_has_the_names_for_users():
    names = dir(fastgd)
    assert names == sorted({*fastgd.__all__, *fastgd.LAZY})
    assert len(fastgd.__all__) == len(set(fastgd.__all__))
    assert [name for name in names if name.startswith("_")] == ["__version__"]
    assert tuple(n for n in names if n in fastgd.LAZY or isinstance(getattr(fastgd, n), types.ModuleType)) == MODULES
    for name in set(names) - {*MODULES, "__version__"}:
        assert inspect.getdoc(getattr(fastgd, name)), f"{name} has no docstring"


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("sklearn", "torch")])
def test_modules_for_users_have_a_docstring(name):
    assert getattr(fastgd, name).__doc__


# ---- lengths


def sources():
    return [
        *PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py"),
        *(path for path in (ROOT / "src_cython").rglob("*.*") if path.suffix in (".pyx", ".pxi", ".h")),
    ]  # fmt: skip


def test_long_files_say_why():
    for path in sources():
        lines = path.read_text().splitlines()
        assert (f"Over {MAX_LINES} lines" in "\n".join(lines[:40])) == (len(lines) > MAX_LINES), f"{path}: {len(lines)}"


def code_lines(function):
    """The number of lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function):
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def test_long_functions_say_why():
    """The module's docstring says "`name` has over 60 lines", so that help() of the function does not show it."""
    for path, tree in trees().values():
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        long = {node.name for node in functions if code_lines(node) > MAX_FUNCTION}
        said = set(re.findall(rf"`(\w+)` has over {MAX_FUNCTION}\s+lines", ast.get_docstring(tree) or ""))
        assert said == long, path
