"""Pictures, with matplotlib (extra `plots`). Each function returns a matplotlib Figure: `.savefig("loss.png", dpi=150)`
saves it, and a notebook shows it. The global state of matplotlib is not used."""

from ..core.hints import show_names
from .curves import compare, histograms, loss_surface, plot_history, plot_loss, plot_range_test, plot_sweep
from .images import plot_confusion, plot_filters, plot_misclassified, plot_saliency
from .text import plot_attention

__all__ = [
    "compare",
    "histograms",
    "loss_surface",
    "plot_attention",
    "plot_confusion",
    "plot_filters",
    "plot_history",
    "plot_loss",
    "plot_misclassified",
    "plot_range_test",
    "plot_saliency",
    "plot_sweep",
]

show_names(__name__)
