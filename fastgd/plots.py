"""Pictures, with matplotlib (extra `plots`). Each function returns a matplotlib Figure."""

# Dark blue and orange: told apart by colour-blind readers and in grey.
TRAINING, VALIDATION = "#0b4f8a", "#e07b00"


def plot_loss(history, title="Loss"):
    """Training loss, and validation loss if there is one, against epochs, on a logarithmic axis."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'fastgd[plots]'") from error
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
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
