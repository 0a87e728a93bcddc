"""The documentation's code blocks run, and the files and names it mentions exist."""

import importlib
import inspect
import pathlib
import re
import sys
import types

import numpy as np
import onnxruntime
import pandas
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv
from pyarrow import parquet as pq
from test_sources import bodies, fields_of, structs

import fastgd
from fastgd.engine.plan import PHASES
from fastgd.layers.base import LAYERS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {page: re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in PAGES}


README = BLOCKS[ROOT / "README.md"]


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p.parent != ROOT and BLOCKS[p] and p.stem != "many_machines"],
    ids=lambda page: page.stem,
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in BLOCKS[page]:
        if not block.startswith("import torch"):
            exec(compile(block, page.name, "exec"), names)


def table(rows):
    rng = np.random.default_rng(0)
    columns = {"id": np.arange(rows), "zip": rng.integers(10, 13, rows), "size": rng.normal(size=rows)}
    return pa.table(columns | {"price": 3 * columns["size"] + rng.normal(size=rows)})


def given_to(block):
    """Names that a block of README assumes (modules, data, a network for them); writes the files it reads."""
    rng, own = np.random.default_rng(0), "pinball" in block
    width, outputs, loss = (8, 1, "mse") if own else (784 if "784" in block else 64, 10, "softmax_cross_entropy")
    X = (16 * rng.random((120, width))).astype(np.float32)
    y = rng.normal(size=(120, 1)) if own else rng.integers(0, 10, 120)
    net = fastgd.Network(width, [fastgd.Dense(8, "tanh"), fastgd.Dense(outputs)], loss=loss)
    histories = {f"history_{i}": net.like(seed=i).fit(X, y, epochs=2) for i in (1, 2, 3)}
    pq.write_table(table(40), "houses.parquet")
    csv.write_csv(table(5), "new.csv")
    for i, name in enumerate(("pictures/cat/1", "pictures/cat/2", "pictures/dog/1", "pictures/dog/2", "new")):
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (40 * i, 0, 0)).save(f"{name}.png")
    np.save("images.npy", (255 * rng.random((120, 784))).astype(np.uint8))
    pathlib.Path("book.txt").write_text("To be, or not to be, that is the question:\n" * 40)
    net.to_onnx("model.onnx")
    modules = {"np": np, "pandas": pandas, "onnxruntime": onnxruntime, "fastgd": fastgd}
    data = {"X": X, "y": y, "Xv": X[:20], "yv": y[:20], "w": rng.random(120)}
    return {**modules, **data, **histories, "history": histories["history_1"], "net": net}


def readme_cases():
    for i, block in enumerate(README):
        if (
            "model.parameters()" not in block and "parallel=" not in block
        ):  # torch's; test_distributed_cli.py runs that for ranks
            yield pytest.param(block, id=str(i), marks=[pytest.mark.slow] if "fastgd.custom" in block else [])


@pytest.mark.filterwarnings("ignore:not converged")
@pytest.mark.parametrize("block", list(readme_cases()))
def test_the_code_of_the_readme_runs(block, own_definitions, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = given_to(block)
    exec(compile(block, "README.md", "exec"), names)
    if "T, C, k = " in block:
        assert names["net"].predict(names["X"]).shape == (200, 12, 5)
        assert names["net"].views()["w2.3"].shape == (32, 8)


def test_the_layer_of_the_example(own_definitions, monkeypatch, tmp_path, capsys):
    """The module in CONTRIBUTING.md and the code that uses it run; the records of its Cython bodies have the fields of
    the contracts."""
    module, use = BLOCKS[ROOT / "CONTRIBUTING.md"]
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

    (sources,) = re.findall(r"```cython\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
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
    names = re.findall(r"(?<![\w/.])(?:fastgd|tests|benchmarks|src_cython|docs|\.ci)/[\w/.-]*\w", text)
    assert len(names) > 5 or page.stem in ("from_torch", "many_machines")
    missing = {name for name in names if not (ROOT / name).exists() and not re.search(r"/(x|test_x|scale)\.p", name)}
    assert not missing


def test_the_architecture_names_what_is_there():
    """Each `Class.attribute` exists, and each function or phase is in the file named beside it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = [path for folder in ("fastgd", "src_cython") for path in (ROOT / folder).rglob("*.*")]
    sources = [path.read_text() for path in paths if path.suffix in (".py", ".pyx", ".pxi", ".h")]
    named = set(re.findall(r"\b([A-Z]\w+)\.([a-z_]\w*)", text)) - {("README", "md")}
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
    examples = {"fastgd.kernels.leaky_forward.onnx", "fastgd.layers.scale", "fastgd.Scale"}
    assert unknown <= examples
