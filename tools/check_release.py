"""Is a tag the one of this version, does CITATION.cff name it, and does the changelog say what is new?

python tools/check_release.py v0.2.0            # exit code 1, and why, if not
python tools/check_release.py v0.2.0 --notes    # prints the part of the changelog about this version
"""

import argparse
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tag")
    parser.add_argument("--notes", action="store_true", help="print what the changelog says")
    arguments = parser.parse_args()
    config = (ROOT / "fastgd" / "core" / "config.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', config, re.MULTILINE).group(1)
    try:
        notes = notes_of(arguments.tag, version, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    except ValueError as error:
        sys.exit(str(error))
    if f"\nversion: {version}\n" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8"):
        sys.exit(f"CITATION.cff: expected 'version: {version}'")
    if arguments.notes:
        print(notes)


def notes_of(tag, version, changelog):
    """The part of the changelog about a version. Raises ValueError unless the tag is right, and the part has a date."""
    if tag != f"v{version}":
        raise ValueError(f"tag: expected v{version}, the version in fastgd/core/config.py, got {tag}")
    parts = re.split(r"^## (.+)\n", changelog, flags=re.MULTILINE)[1:]
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        if heading.partition(",")[0] == version:
            if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", heading.partition(", ")[2]):
                raise ValueError(f"CHANGELOG.md: expected a heading '## {version}, YYYY-MM-DD', got '## {heading}'")
            return text.strip()
    raise ValueError(f"CHANGELOG.md: expected a heading '## {version}, YYYY-MM-DD', got none of this version")


if __name__ == "__main__":
    main()
