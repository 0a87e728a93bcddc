"""Empty figures, and the files that hold them."""

import os
from typing import TYPE_CHECKING

from ..errors import value_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float = 6.4, height: float = 4.0) -> "Figure":
    """A matplotlib figure of this size in inches; raises ImportError without matplotlib."""
    try:
        from .picture import Picture
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'fastgd[plots]'") from error
    return Picture(figsize=(width, height), layout="constrained")


def check_picture(argument: str, path: str) -> None:
    """Raises ValueError if matplotlib cannot save a figure under a name with this ending."""
    known = new_figure().canvas.get_supported_filetypes()
    ending = os.path.splitext(path)[1][1:].lower()
    if ending not in known:
        raise value_error(argument, f"a file ending in one of {', '.join(f'.{e}' for e in sorted(known))}", repr(path))


def entry(label):
    """A label that legends show: matplotlib leaves out empty ones, and those that begin with an underscore."""
    text = str(label)
    return f" {text}" if text.startswith("_") or not text else text
