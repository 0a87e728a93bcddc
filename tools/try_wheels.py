"""Builds a wheel for each of several versions of Python, as users would install it, and tries it.

    python tools/try_wheels.py [python3.12 python3.13 ...] [--folder dist] [--variants v3]

The interpreters are commands or paths; without any, those of python3.11 to python3.14t that are in PATH. An sdist is
made first, and each wheel from the sdist; auditwheel gives a wheel the oldest manylinux tag that it can have. Then the
wheel is installed in a new virtual environment without a compiler in PATH, and the self-check (`python -m fastgd`) and
tools/smoke.py run there. Prints a table, and ends with exit code 1 unless every wheel passes, has at most 5 MB, and
imports in less than 120 ms beside numpy. --variants builds some instruction sets only, for haste; see CONTRIBUTING.md.

A wheel takes about five minutes of one core. Needs `pip install '.[wheels]'`, and a C compiler.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSIONS = ("python3.11", "python3.12", "python3.13", "python3.14", "python3.14t")
MOST_MEGABYTES, MOST_SECONDS = 5.0, 0.120


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interpreters", nargs="*", help="commands or paths; default: python3.11 to 3.14t in PATH")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "dist", help="for the sdist and the wheels")
    parser.add_argument("--variants", default="", help="instruction sets to build, such as v3; default: all")
    arguments = parser.parse_args()
    asked = arguments.interpreters or [name for name in VERSIONS if shutil.which(name)]
    interpreters = [shutil.which(name) or sys.exit(f"{name}: not found") for name in asked]
    if not interpreters:
        sys.exit(f"none of {', '.join(VERSIONS)} is in PATH; name the interpreters")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        sdist = make_sdist(work)
        shutil.copy(sdist, arguments.folder)
        print(f"{'python':8}{'tag':28}{'MB':>6}{'import, ms':>12}{'build, min':>12}  result", flush=True)
        has_passed = True
        for i, python in enumerate(interpreters):
            has_passed &= try_one(python, sdist, work / f"{i}", arguments)
    if not has_passed:
        sys.exit(1)


def run(*command, environment=None):
    """Runs a command; if it fails, prints what it printed, and ends."""
    command = [str(part) for part in command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}\nfailed: {' '.join(command)}")


def make_sdist(work):
    run(sys.executable, "-m", "build", "--sdist", "--outdir", work, ROOT)
    (sdist,) = work.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist)
    return sdist


def try_one(python, sdist, work, arguments):
    """Builds, repairs, installs and tries the wheel for one interpreter; prints a row of the table."""
    begin = time.perf_counter()
    environment = os.environ | {"FASTGD_VARIANTS": arguments.variants}
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "FASTGD_ISA", "FASTGD_NUM_THREADS"):
        environment.pop(name, None)
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", work / "built", sdist, environment=environment)
    minutes = (time.perf_counter() - begin) / 60
    (built,) = (work / "built").glob("*.whl")
    run(sys.executable, "-m", "auditwheel", "repair", "-w", work / "repaired", built)
    (wheel,) = (work / "repaired").glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel)
    shutil.copy(wheel, arguments.folder)
    output = check(python, wheel, work / "venv", environment)
    found = re.search(r"import beside numpy: ([0-9.]+) s", output)
    interpreter, tag = wheel.stem.split("-")[3], wheel.stem.split("-")[-1].split(".")[0]
    megabytes, seconds = wheel.stat().st_size / 1e6, float(found.group(1)) if found else float("inf")
    has_passed = "self-check: PASS" in output and "smoke test: PASS" in output
    has_passed = has_passed and megabytes <= MOST_MEGABYTES and seconds < MOST_SECONDS
    print(f"{interpreter:8}{tag:28}{megabytes:6.2f}{1000 * seconds:12.0f}{minutes:12.1f}  "
          f"{'PASS' if has_passed else 'FAIL'}", flush=True)  # fmt: skip
    return has_passed


def check(python, wheel, venv, environment):
    """What the self-check and the smoke test print in a new environment whose PATH has no compiler."""
    run(python, "-m", "venv", venv)
    environment = environment | {"PATH": str(venv / "bin")}
    environment.pop("CC", None)
    assert shutil.which("cc", path=environment["PATH"]) is None
    here = venv / "bin" / "python"
    run(here, "-m", "pip", "install", "-q", "--only-binary=:all:", wheel, environment=environment)
    output = ""
    for command in (("-m", "fastgd"), (ROOT / "tools" / "smoke.py",)):
        done = subprocess.run([here, *command], env=environment, cwd=venv, capture_output=True, text=True, check=False)
        output += done.stdout
        if done.returncode:
            print(done.stdout, done.stderr, sep="\n")
    return output


if __name__ == "__main__":
    main()
