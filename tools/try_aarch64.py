"""Builds fastgd for aarch64 by a cross compiler, and checks it under an emulator.

    python tools/try_aarch64.py [--folder build/aarch64] [arguments of pytest ...]

Runs the self-check; compares the bits of short trainings with what the fastgd installed here gives; runs, by
pytest, tests of the compiled kernels, or those that the arguments name. It needs Debian or a system like it, and once,
as root:

    dpkg --add-architecture arm64 && apt-get update
    apt-get install gcc-aarch64-linux-gnu qemu-user

and in the environment Cython, cython-cmake, cmake and ninja, as an editable install does. Python comes from Debian's
packages, numpy from its wheel for aarch64; both are unpacked in the folder, and nothing is installed. The first run
takes about twenty minutes, most of it under emulation; times say nothing about real processors.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
WHEELS = ("numpy>=2.0", "safetensors", "tqdm", "pytest", "pytest-timeout")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
PACKAGES = ("python3:arm64", "libpython3-dev:arm64", "libstdc++6:arm64")
# Without those that take minutes there: of attention, which the self-check has, too; of all float32 numbers.
CHOSEN = "(cython or large_products or elementary) and not (numba or attention or test_float32)"
TESTS = ("tests/test_kernels.py", "tests/test_elementary.py", "tests/test_sums.py", "-k", CHOSEN)
TOOLCHAIN = """\
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "aarch64", help="kept between runs")
    arguments, tests = parser.parse_known_args()
    for command in ("aarch64-linux-gnu-gcc", "qemu-aarch64", "apt-get", "dpkg-deb", "cmake", "ninja", "cython"):
        if shutil.which(command) is None:
            sys.exit(f"{command}: not found; `python tools/try_aarch64.py --help` says what to install")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    version = unpack_python(folder / "system")
    python = write_python(folder, version)
    unpack_wheels(folder, version)
    build(folder, python, version)
    emulated(folder, python, "-m", "fastgd")
    compare_bits(folder, python)
    emulated(folder, python, "-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=3000", *(tests or TESTS))


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, text=True, **options)


def unpack_python(system):
    """Unpacks Debian's Python and what it needs; returns its version, such as "3.11"."""
    if not system.exists():
        found = run("apt-cache", "depends", "--recurse", "--important", *PACKAGES, stdout=subprocess.PIPE)
        packages = re.findall(r"^(\w\S*:arm64)$", found.stdout, re.MULTILINE)
        # The compiler brings the headers of the C library.
        packages = [name for name in packages if not name.startswith(("libc6-dev", "linux-libc-dev", "dpkg", "tar"))]
        downloaded = system.with_name("packages")
        downloaded.mkdir(exist_ok=True)
        run("apt-get", "download", "-q", *packages, cwd=downloaded)
        unfinished = system.with_name("system.unfinished")
        for package in sorted(downloaded.glob("*.deb")):
            run("dpkg-deb", "-x", package, unfinished)
        unfinished.rename(system)
    return next(path.name.removeprefix("python") for path in (system / "usr" / "bin").glob("python3.*[0-9]"))


def write_python(folder, version):
    """Writes a command that runs Python under emulation; CMake takes it for an interpreter."""
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'export PYTHONPATH="{folder}/run:{folder}/site" OPENBLAS_NUM_THREADS=1\n'
        f'exec qemu-aarch64 -L "{folder}/system" "{folder}/system/usr/bin/python{version}" "$@"\n'
    )
    python.chmod(0o755)
    return python


def unpack_wheels(folder, version):
    if (folder / "site").exists():
        return
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    options = ("--python-version", version, "--implementation", "cp", "--only-binary=:all:", "-d", folder / "wheels")
    run(sys.executable, "-m", "pip", "download", "-q", *platforms, *options, *WHEELS)
    for wheel in (folder / "wheels").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder / "site.unfinished")
    (folder / "site.unfinished").rename(folder / "site")


def build(folder, python, version):
    """Builds the compiled modules, and lays the package with them into folder/run, beside the tests."""
    import cython_cmake

    (folder / "toolchain.cmake").write_text(TOOLCHAIN)
    headers = folder / "system" / "usr" / "include"
    definitions = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_TOOLCHAIN_FILE": folder / "toolchain.cmake",
        "CMAKE_MODULE_PATH": pathlib.Path(cython_cmake.__file__).parent / "cmake",
        "CMAKE_C_FLAGS": f"-isystem {headers}",
        "CYTHON_EXECUTABLE": shutil.which("cython"),  # the host's, which is faster
        "Python_EXECUTABLE": python,
        "Python_INCLUDE_DIR": headers / f"python{version}",
    }
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    run("cmake", "-S", ROOT / "src_cython", "-B", folder / "build", "-GNinja", *options)
    run("cmake", "--build", folder / "build")
    shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.copytree(ROOT / "fastgd", folder / "run" / "fastgd", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(ROOT / "tests", folder / "run" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder / "run")
    for module in (folder / "build").glob("*.so"):
        shutil.copy(module, folder / "run" / "fastgd")


def emulated(folder, python, *arguments, **options):
    return run(python, *arguments, cwd=folder / "run", **options)


def compare_bits(folder, python):
    """The bits of the trainings in tests/test_build.py are those of x86-64 with FMA, if numpy's functions of scalars,
    such as powers for Adam, are: with AVX-512 it has others, which round otherwise."""
    code = (ROOT / "tests" / "test_build.py").read_text().split('TRAINED = """')[1].split('"""')[0]
    environment = {**os.environ, "FASTGD_ISA": "v3", "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_SKX"}
    here = run(sys.executable, "-W", "ignore", "-c", code, cwd=ROOT, env=environment, stdout=subprocess.PIPE).stdout
    there = emulated(folder, python, "-c", code, stdout=subprocess.PIPE).stdout
    print(f"bits of trainings: x86-64 v3 {here[:16]}, aarch64 {there[:16]}")
    if here != there:
        sys.exit("aarch64 and x86-64 v3 give different bits")


if __name__ == "__main__":
    main()
