"""What a release needs: tag, version and changelog agree, workflows and metadata name what exists."""

import importlib.util
import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHANGELOG = "# Changelog\n\n## 0.2.0, 2026-11-30\n\n### New\n\n- x\n\n## 0.1.0, unreleased\n\n- y\n"


@pytest.fixture(scope="module")
def check_release():
    spec = importlib.util.spec_from_file_location("check_release", ROOT / "tools" / "check_release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notes_are_those_of_the_version(check_release):
    assert check_release.notes_of("v0.2.0", "0.2.0", CHANGELOG) == "### New\n\n- x"


@pytest.mark.parametrize(
    ("tag", "version", "message"),
    [
        ("v0.2.0", "0.3.0", r"expected v0\.3\.0, .* got v0\.2\.0"),
        ("0.2.0", "0.2.0", r"expected v0\.2\.0, .* got 0\.2\.0"),
        ("v0.1.0", "0.1.0", r"YYYY-MM-DD', got '## 0\.1\.0, unreleased'"),
        ("v0.3.0", "0.3.0", r"got none of this version"),
    ],
)
def test_what_does_not_agree_is_an_error(check_release, tag, version, message):
    with pytest.raises(ValueError, match=message):
        check_release.notes_of(tag, version, CHANGELOG)


def test_what_workflows_run_exists():
    workflows = list((ROOT / ".github" / "workflows").glob("*.yml"))
    assert len(workflows) == 3
    for workflow in workflows:
        named = re.findall(r"(?<![\w/.-])(?:\.ci|docs|tests|tools)\b(?:/\w+(?:\.py)?)?", workflow.read_text())
        assert named
        for path in named:
            assert (ROOT / path).exists(), path


def test_the_versions_of_python_agree():
    """Wheels are built for the versions that the metadata names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["project"]["classifiers"]))
    assert [f"cp{version.replace('.', '')}-*" for version in named] == project["tool"]["cibuildwheel"]["build"]
    assert project["project"]["requires-python"] == f">={named[0]}"


def test_the_page_about_installing_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = [line for line in (ROOT / "docs" / "how_to" / "install.md").read_text().splitlines() if line[:3] == "| `"]
    assert set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table))) == set(
        project["optional-dependencies"]
    )


def test_the_version_to_cite_is_the_version():
    import fastgd

    assert f"\nversion: {fastgd.__version__}\n" in (ROOT / "CITATION.cff").read_text()
