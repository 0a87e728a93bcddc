"""What README, CONTRIBUTING.md and the pages in docs/ say is so: commands parse, files, links and names exist, examples
run. The code of pages runs when the site is built, and is not run here."""

import contextlib
import importlib
import inspect
import io
import pathlib
import re
import shlex
import sys
import types

import pytest
from test_sources import bodies, fields_of, structs

from fastgd.cli.parser import parser
from fastgd.engine.plan import PHASES
from fastgd.layers.base import LAYERS

ROOT = pathlib.Path(__file__).parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *sorted((ROOT / "docs").rglob("*.md"))]
README_LINES = 150


def blocks(page, language):
    """The blocks of a page in this language; "" is none."""
    found = re.findall(r"^```(\S*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def test_the_example_of_the_readme_prints_what_it_shows():
    (example,), (shown,) = blocks(README, "python"), blocks(README, "text")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    assert printed.getvalue() == shown
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES


def commands(page):
    """The arguments of each `fastgd COMMAND ...` in the shell blocks and the cells of a page."""
    shell = "".join(block for language in ("", "console", "bash") for block in blocks(page, language))
    cells = re.findall(r"^!(.*)", "".join(blocks(page, "{code-cell}")), re.MULTILINE)
    for line in [*shell.replace("\\\n", " ").splitlines(), *cells]:
        command = re.search(r"(?:^|^\$ |&& |^mpiexec.* )fastgd ([a-z].*)", line)
        if command:
            own = shlex.split(command[1], comments=True)
            yield own[: next((i for i, word in enumerate(own) if word in ("&&", "|", ">")), None)]


def test_commands_parse():
    """What the parser does not know ends it with SystemExit."""
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 20
    for command in found:
        parser().parse_args(command)
    for wrong in (["train", "digits", "--no-such-option"], ["no-such-command"]):
        with pytest.raises(SystemExit):
            parser().parse_args(wrong)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.stem)
def test_code_that_the_site_does_not_run_is_python(page):
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", [README, CONTRIBUTING], ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    """Those between pages are checked when the site is built."""
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def summaries(names):
    """The first sentence of each name in the tables of the reference, by name."""
    for page in sorted((ROOT / "docs" / "reference").glob("*.rst")):
        for path, options in re.findall(r"^\.\. names:: (\S+)\n((?: +:.*\n)*)", page.read_text(), re.MULTILINE):
            (module, known), chosen = names.offered(path), dict(re.findall(r":(\w+): (.*)", options))
            without = chosen.get("without", "").split()
            for name in chosen["only"].split() if "only" in chosen else known:
                if name not in without:
                    yield f"{path}.{name}", names.summary(names.docstring(getattr(module, name)))


def test_first_sentences_in_the_tables_of_the_reference_are_whole(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(ROOT / "docs" / "extensions")
    found = dict(summaries(importlib.import_module("names")))
    assert len(found) > 150
    for name, text in found.items():
        assert text.endswith("."), name
        assert not text.endswith((",.", ":.", ";.", "..")), name
        assert len(re.findall(r"[(\[]", text)) == len(re.findall(r"[)\]]", text)), name
        assert text.count("`") % 2 == 0, name
        assert not re.search(r"[^.\s]\. (?!.*al\.)", text), name
    for name, text in (
        ("layers.TransformerBlock", "A block of a transformer with normalization first."),
        ("schedules.cosine", "Linear warm-up, then half a cosine from learning_rate to final."),
        ("tables.Numbers", "A column of numbers, encoded as (x - shift) scale, where x is `fill` for missing numbers."),
        ("tables.OUTPUTS", "`('prediction', 'probabilities', 'scores')`."),
        ("text.Vocabulary", "One of `fastgd.text.Characters`, `fastgd.text.Bytes`, `fastgd.text.Tokenizer`."),
    ):
        assert found[f"fastgd.{name}"] == text


def test_the_layer_of_the_example(own_definitions, monkeypatch, tmp_path, capsys):
    """The module in CONTRIBUTING.md and the code that uses it run; the records of its Cython bodies have the fields of
    the contracts."""
    module, use = blocks(CONTRIBUTING, "python")
    made = types.ModuleType("fastgd.layers.scale")
    made.__package__ = "fastgd.layers"
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setitem(LAYERS, "Scale", None)  # removed after the test
    monkeypatch.chdir(tmp_path)
    exec(compile(module, "scale.py", "exec"), vars(made))
    exec(compile(use, "use.py", "exec"), {})
    assert "scale_gradient(ds2[3], " in capsys.readouterr().out
    for name, method in inspect.getmembers(made.Scale, inspect.isfunction):  # its public signatures have types
        (_, *given), returned = (
            inspect.signature(method).parameters.values(),
            inspect.signature(method).return_annotation,
        )
        assert returned is not inspect.Parameter.empty, name
        assert all(p.annotation is not p.empty for p in given), name

    (sources,) = blocks(CONTRIBUTING, "cython")
    records, _ = bodies(sources)
    assert records == {"scale_columns": ("ScaleColumns",) * 2, "scale_gradient": ("ScaleGradient",) * 2}
    for name, (struct, _) in records.items():
        assert structs(sources)[struct] == fields_of(getattr(made, name))


def test_hooks_run_the_lint_line_of_the_checks():
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.M)
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    checks = [line for line in lines if line.startswith(("ruff", "cython-lint", "codespell", "mypy"))]
    assert hooks == checks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"(?<![\w/.])(?:fastgd|tests|benchmarks|examples|src_cython|docs|\.ci)/[\w/.-]*\w", text)
    missing = {name for name in names if not (ROOT / name).exists() and not re.search(r"/(x|test_x|scale)\.p", name)}
    assert not missing


def test_the_architecture_names_what_is_there():
    """Each `Class.attribute` exists, and each function or phase is in the file named beside it."""
    text = (ROOT / "docs" / "why" / "architecture.md").read_text(encoding="utf-8")
    paths = [path for folder in ("fastgd", "src_cython") for path in (ROOT / folder).rglob("*.*")]
    sources = [path.read_text() for path in paths if path.suffix in (".py", ".pyx", ".pxi", ".h")]
    named = set(re.findall(r"\b([A-Z]\w+)\.(?!md\b)([a-z_]\w*)", text))
    assert len(named) > 12
    for name, attribute in named:
        (source,) = (source for source in sources if re.search(rf"^(cdef |cpdef )?class {name}\b", source, re.M))
        assert re.search(rf"\bdef {attribute}\b|\b{attribute}\(|\.{attribute}\b", source), f"{name}.{attribute}"
    for line in re.findall(r"^ +\w+ +src_cython/.*", text, re.M):
        name, path = re.match(r" +(\w+) +(\S+)", line).groups()
        assert name in (ROOT / path).read_text() or name in PHASES, line


def exists(name):
    """Whether a dotted name of the package is a module or an attribute."""
    module, _, rest = name.partition(".")
    found = importlib.import_module(module)
    for part in rest.split("."):
        if not hasattr(found, part):
            try:
                importlib.import_module(f"{found.__name__}.{part}")
            except (ImportError, AttributeError):
                return False
        found = getattr(found, part)
    return True


def test_names_of_the_package_mean_something():
    """Every `fastgd.x.y` in pages, docstrings, comments and messages."""
    paths = [*PAGES, *(ROOT / "fastgd").rglob("*.py"), *(ROOT / "src_cython").rglob("*.p*")]
    named = {
        (path.name, name)
        for path in paths
        for name in re.findall(r"(?<![\w./'-])fastgd(?:\.[A-Za-z_]\w*)+", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 80
    unknown = {name for _, name in named if not exists(name)}
    examples = {"fastgd.layers.scale", "fastgd.Scale"}  # of CONTRIBUTING.md, and of docs/how_to/custom.md:
    examples |= {"fastgd.kernels.leaky_forward.onnx", "fastgd.activations.leaky", "fastgd.losses.pinball"}
    assert unknown <= examples
