"""The code of the pages in docs/ runs, block after block."""

import pathlib
import re

import pytest

PAGES = sorted((pathlib.Path(__file__).parents[1] / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ours = [block for block in blocks if not block.startswith("import torch")]
    assert ours
    names = {}
    for block in ours:
        exec(compile(block, page.name, "exec"), names)
