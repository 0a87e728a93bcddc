"""The code of the pages in docs/ runs, block after block."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ours = [block for block in blocks if not block.startswith("import torch")]
    assert ours
    names = {}
    for block in ours:
        exec(compile(block, page.name, "exec"), names)


def test_hooks_run_the_lint_line_of_the_checks():
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.M)
    checks = [
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith(("ruff", "cython-lint"))
    ]
    assert hooks == checks


def test_pages_for_contributors_name_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in re.findall(r"(?:tests|benchmarks|src_cython|\.ci)/[\w/.]*\w", text):
        assert (ROOT / name).exists() or name in ("tests/test_x.py", "tests/mutants.py"), name
