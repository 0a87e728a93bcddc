"""Pictures, with matplotlib (extra `plots`). Each function returns a matplotlib Figure."""

import os

from .errors import value_error

# Dark blue and orange: told apart by colour-blind readers and in grey.
TRAINING, VALIDATION = "#0b4f8a", "#e07b00"


def _figure():
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'fastgd[plots]'") from error
    return Figure(figsize=(6.4, 4.0), layout="constrained")


def check_picture(argument, path):
    """Raises if a figure cannot be saved under such a name."""
    known = _figure().canvas.get_supported_filetypes()
    ending = os.path.splitext(path)[1][1:].lower()
    if ending not in known:
        raise value_error(argument, f"a file ending in one of {', '.join(f'.{e}' for e in sorted(known))}", repr(path))


def plot_loss(history, title="Loss"):
    """Training loss, and validation loss if there is one, against epochs, on a logarithmic axis."""
    figure = _figure()
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    epochs = range(1, len(history.loss) + 1)
    axes.plot(epochs, history.loss, color=TRAINING, label="training")
    if history.validation_loss:
        axes.plot(epochs, history.validation_loss, color=VALIDATION, linestyle="--", label="validation")
    axes.set(title=title, xlabel="epoch", ylabel="mean loss", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
