"""Pictures of the built site, to look at: python tools/look_at_site.py [PAGE ...] writes build/looks/*.png.

Each page (a path below build/site, without .html; all without arguments) as on a desk and on a phone, light and dark.
Needs chromium."""

import pathlib
import shutil
import subprocess
import sys
import tempfile

SITE, LOOKS = pathlib.Path("build/site").resolve(), pathlib.Path("build/looks")
SIZES = {"desk": (1280, 2600), "phone": (500, 2600)}  # chromium has no narrower window
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"


def look(page, name, theme, size):
    """Furo reads the theme from the page's own storage; here it is written into a copy of the page."""
    file = SITE / f"{page}.html"
    text = (
        file.read_text()
        .replace("<body>", f'<body data-theme="{theme}">')
        .replace('document.body.dataset.theme = localStorage.getItem("theme") || "auto";', "")
    )
    beside = tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".html")  # noqa: SIM115
    with beside as copy, tempfile.TemporaryDirectory() as home:
        copy.write(text)
        copy.flush()
        LOOKS.mkdir(parents=True, exist_ok=True)
        picture = LOOKS / f"{page.replace('/', '-')}-{name}-{theme}.png"
        options = [f"--user-data-dir={home}", f"--window-size={size[0]},{size[1]}", f"--screenshot={picture}"]
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [CHROMIUM, "--headless", "--no-sandbox", "--hide-scrollbars", *options, f"file://{copy.name}"]
        subprocess.run(command, **quiet)


if __name__ == "__main__":
    pages = [str(f.relative_to(SITE).with_suffix("")) for f in sorted(SITE.rglob("*.html"))]
    for page in sys.argv[1:] or pages or ["index"]:
        if not (SITE / f"{page}.html").is_file():
            sys.exit(f"build/site/{page}.html: not found; `sphinx-build docs build/site` builds the site")
        for name, size in SIZES.items():
            for theme in ("light", "dark"):
                look(page, name, theme, size)
