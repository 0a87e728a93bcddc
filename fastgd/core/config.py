"""Versions and settings in use."""

from .kernel import variant
from .threads import default_threads

# pyproject.toml reads the version from here, since frozen applications have no distribution metadata.
__version__ = "0.1.0"


def _version(package):
    import importlib.metadata  # slow, and needed here only
    import importlib.util

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        module = {"scikit-learn": "sklearn"}.get(package, package)
        return "installed without metadata" if importlib.util.find_spec(module) else "not installed"


def config() -> dict[str, str | int]:
    """Versions, processor variant and threads, as a dict."""
    import platform

    packages = ("numpy", "numba", "safetensors", "scikit-learn", "matplotlib", "onnx")
    return {
        "fastgd": __version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
        "machine": f"{platform.machine()} {platform.system()}",
        "instruction set": variant(),
        "threads": default_threads(),
    }


def show_config() -> None:
    """Prints versions, the instruction set in use and the number of threads."""
    for name, value in config().items():
        print(f"{name:<16} {value}")
