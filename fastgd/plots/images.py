"""Pictures of classifiers of images."""

import copy
import math
import os
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.types import ShapeLike
from ..data.samples import check_rows, check_samples, check_values
from ..errors import check_integer, shown, type_error, value_error
from ..images import Images, Preprocessing
from ..layers import Conv2D
from ..layers.base import check_shape
from ..metrics import confusion_matrix
from ..network import Network
from .figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 8  # at most so many images beside each other
LONGEST, LONGEST_FILE = 15, 22  # letters of the name of a class and of a file
LETTER, LINE_HEIGHT = 0.075, 0.17  # inches of a letter and of a line in a caption
COUNTED = 25  # up to so many classes, a confusion matrix has numbers


def plot_misclassified(
    network: Network,
    X: "npt.ArrayLike | Images",
    y: "npt.ArrayLike | None" = None,
    class_names: Sequence[Any] | None = None,
    *,
    most: int = 24,
    image_shape: ShapeLike | None = None,
    title: str = "Misclassified",
) -> "Figure":
    """The images of X whose most probable class is not y, those with the most probable wrong class first. Above each:
    the predicted class and its probability, the true class and its probability; and the name of its file.

    network: a classifier with the loss softmax_cross_entropy. X: (rows, *input_shape), y: labels (rows,); or, without
        y, the images with labels that `fastgd.images.read` returns, which know the names of their files.
    class_names: a name for each class; None for those of `preprocessing`, or of the images, or else the numbers.
    most: images that are drawn at most.
    image_shape: (height, width) or (height, width, channels), for networks whose rows are vectors.

    Images of 3 channels are drawn in colours, those of others in grey, as the mean over the channels: bytes from 0 to
    255, other numbers between the least and the greatest in the picture."""
    names, most = _names(network, class_names, X), check_integer("most", most, 1)
    shape = _image_shape(network, image_shape)
    x, labels = _samples(network, X, y)
    files = X.paths if isinstance(X, Images) else None
    found = network.predict(x)
    predicted, rows = found.argmax(axis=1), np.arange(len(labels))
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-found[wrong, predicted[wrong]], kind="stable")]
    drawn = wrong[:most]
    captions = [
        "\ntrue: ".join(f"{names[k]}, {found[row, k]:.0%}" for k in (predicted[row], labels[row])) for row in drawn
    ]
    if files is not None:
        captions = [f"{caption}\n{_file_name(files[row])}" for caption, row in zip(captions, drawn, strict=True)]
    figure, panels = _panels(captions, shape, lines=2 if files is None else 3)
    first = f" (the first {len(drawn)})" if len(drawn) < len(wrong) else ""
    figure.suptitle(f"{title}: {len(wrong):,} of {len(rows):,}{first}", parse_math=False)
    for panel, caption, image in zip(panels, captions, _displayed(x[drawn], shape), strict=False):
        _draw(panel, image, caption)
    return figure


def plot_filters(network: Network, *, most: int = 64, title: str | None = None) -> "Figure":
    """The filters of the first convolution of a network: in colours for images of 3 channels, each filter with its
    largest weight at full strength; in grey for others, on one scale for all filters, with the channels of a filter
    beside each other. Grey in the middle is 0. most: filters that are drawn at most."""
    if not isinstance(network, Network):
        raise type_error("network", "a fastgd.Network", shown(network))
    leaves = network.body.leaves("", network.input_shape)
    path, layer = next(((at, leaf) for at, leaf, _ in leaves if isinstance(leaf, Conv2D)), (None, None))
    if layer is None:
        raise value_error("network", "a network with a Conv2D layer", repr(network))
    most = check_integer("most", most, 1)
    weights = np.nan_to_num(network.views()[f"w{path}"].astype(np.float64), posinf=0, neginf=0)
    height, width, channels, filters = weights.shape
    if channels == 3:
        peaks = np.abs(weights).max(axis=(0, 1, 2)) + np.finfo(np.float32).tiny
        images, options = [*np.moveaxis(0.5 + 0.5 * weights / peaks, -1, 0)], {}
    else:
        apart = np.full((height, channels, width + 1, filters), np.nan)  # a gap follows each channel
        apart[:, :, :-1] = np.swapaxes(weights, 1, 2)
        images = [*np.moveaxis(apart.reshape(height, -1, filters)[:, :-1], -1, 0)]
        peak = np.abs(weights).max() or 1.0
        options = {"cmap": "gray", "vmin": -peak, "vmax": peak}
    shape = images[0].shape
    captions = [str(number) for number in range(min(filters, most))]
    figure, panels = _panels(captions, shape, least=0.9 if options == {} or channels == 1 else 0.5)
    figure.suptitle(title or f"Filters of layer {path}: {filters} of {height} x {width} x {channels}", parse_math=False)
    for panel, caption, image in zip(panels, captions, images, strict=False):
        drawn = _draw(panel, image, caption, **options)
    if options:
        figure.colorbar(drawn, ax=list(panels), label="weight", shrink=0.8)
    return figure


def plot_confusion(
    network: Network,
    X: "npt.ArrayLike | Images",
    y: "npt.ArrayLike | None" = None,
    class_names: Sequence[Any] | None = None,
    *,
    title: str = "Confusion matrix",
) -> "Figure":
    """The number of rows of each true class (from top to bottom) for which each class is the most probable (from left
    to right). The shade is the fraction of the true class. Numbers are left out if there are more than 25 classes.

    network, X, y, class_names: as in `plot_misclassified`; X need not be images."""
    names = _names(network, class_names, X)
    x, labels = _samples(network, X, y)
    k, counts = len(names), confusion_matrix(labels, network.predict(x)).astype(np.int64)
    fractions = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    cell = max(0.5, 0.09 * len(str(counts.max()))) if k <= COUNTED else 0.15
    size = min(14.0, max(2.5, cell * k))
    figure = new_figure(size + 1.8, size + 1.2)
    axes = figure.subplots()
    drawn = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, label="fraction of the true class", shrink=0.8)
    every = max(1, math.ceil(k / 40))  # ticks that do not overlap
    ticks = range(0, k, every)
    texts = [names[i] for i in ticks]
    rotation = 90 if max(map(len, texts)) > 3 or k > COUNTED else 0
    axes.set_xticks(ticks, texts, rotation=rotation, parse_math=False)
    axes.set_yticks(ticks, texts, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{title}: {counts.trace() / len(labels):.2%} right", parse_math=False)
    if k <= COUNTED:
        for i, j in np.argwhere(counts):
            colour = "white" if fractions[i, j] > 0.5 else "black"
            axes.text(j, i, counts[i, j], ha="center", va="center", color=colour, fontsize="small")
    return figure


def plot_saliency(
    network: Network,
    X: "npt.ArrayLike | Images",
    y: "npt.ArrayLike | None" = None,
    class_names: Sequence[Any] | None = None,
    *,
    most: int = 8,
    image_shape: ShapeLike | None = None,
    title: str = "Saliency",
) -> "Figure":
    """Images, and below each the magnitude of the gradient of a class's score, the raw output before softmax, with
    respect to each pixel (the greatest over the channels): the pixels that change the score most. Simonyan et al. 2014,
    arXiv:1312.6034. The class is y if it is given, else the most probable one. Each gradient has a scale of its own.
    The network does not change.

    most: so many of the first rows of X are drawn at most.
    network, class_names, image_shape: as in `plot_misclassified`."""
    names, most = _names(network, class_names, X), check_integer("most", most, 1)
    shape = _image_shape(network, image_shape)
    if y is None:
        x = check_rows("X", X.images if isinstance(X, Images) else X, network.input_shape)
        check_values("X", x, network.dtype)
        x = np.asarray(x[:most])
    else:
        x, labels = _samples(network, X, y)
        x, labels = np.asarray(x[:most]), labels[:most]
    twin = copy.deepcopy(network)
    scores, found = twin.forward(x, record=True), network.predict(x)
    chosen = found.argmax(axis=1) if y is None else labels
    gradient = twin.backward(np.eye(scores.shape[1], dtype=network.dtype)[chosen])
    assert gradient is not None  # since input_gradient is True
    saliency = np.abs(gradient.reshape(len(x), *shape)).max(axis=3)
    captions = [f"{names[k]}, {found[i, k]:.0%}" for i, k in enumerate(chosen)]
    figure, panels = _panels(captions, shape, lines=1, rows=2)
    figure.suptitle(f"{title} of the {'predicted' if y is None else 'given'} class", parse_math=False)
    across = panels.shape[1]
    for i, image in enumerate(_displayed(x, shape)):
        above, below = panels[2 * (i // across) : 2 * (i // across) + 2, i % across]
        _draw(above, image, captions[i])
        _draw(below, saliency[i], cmap="inferno", vmin=0, vmax=saliency[i].max() or 1.0)
    return figure


# ---- arguments


def _names(network, class_names, X):
    """The names of the classes of a network as texts, given those that X may have."""
    if not isinstance(network, Network):
        raise type_error("network", "a fastgd.Network", shown(network))
    if not network.loss_function.takes_labels or len(network.output_shape) != 1:
        raise value_error("network", "a classifier with the loss softmax_cross_entropy", repr(network))
    k = network.output_shape[0]
    of_images = X.classes if isinstance(X, Images) else None
    if isinstance(X, Images):
        X.check_network("X", network)
    made = network.preprocessing
    known = getattr(made if isinstance(made, Preprocessing) else getattr(made, "target", None), "classes", None)
    if class_names is None:
        class_names = known or of_images or range(k)
    is_list = hasattr(class_names, "__len__") and not isinstance(class_names, (str, Mapping, Set))
    if not is_list or len(class_names) != k:
        raise value_error("class_names", f"a name for each of {k} classes", shown(class_names))
    return [_short(" ".join(str(name).split())) for name in class_names]


def _samples(network, X, y):
    """X and labels y, checked."""
    if y is None:
        y = X.labels if isinstance(X, Images) else None
        if y is None:
            raise type_error("y", "labels, unless X is images with labels (fastgd.images.read)", None)
    X = X.images if isinstance(X, Images) else X
    samples = check_samples(network, X, y)
    return samples.x, samples.y if samples.y.ndim == 1 else samples.y.argmax(axis=1)


def _image_shape(network, given):
    """The (height, width, channels) of the rows of a network."""
    shape = network.input_shape
    if given is None and len(shape) in (2, 3):
        return (*shape, 1)[:3]
    n = math.prod(shape)
    made = () if given is None else check_shape("image_shape", given)
    if len(made) not in (2, 3) or math.prod(made) != n:
        expected = f"(height, width) or (height, width, channels) of images of {n} numbers"
        raise value_error("image_shape", expected, shown(given))
    return (*made, 1)[:3]


# ---- drawing


def _panels(
    captions: list[str], shape: tuple[int, ...], *, lines: int = 1, rows: int = 1, least: float = 1.2
) -> "tuple[Figure, Any]":
    """A figure with a panel for each caption, without axes, and its panels (rows, columns): wide enough for the
    captions, and `least` inches high or wide, whichever is shorter. lines: of a caption; rows: of panels for one line
    of captions."""
    ratio = shape[0] / shape[1]
    letters = max((len(line) for caption in captions for line in caption.split("\n")), default=0)
    width = max(min(least / min(ratio, 1), 7.0), LETTER * letters + 0.1)
    across = max(1, min(ACROSS, len(captions), int(10 / width)))
    down = math.ceil(len(captions) / across)
    height = min(width * ratio, 2 * least) + (LINE_HEIGHT * lines + 0.1) / rows
    figure = new_figure(max(3.4, across * width), down * rows * height + 0.4)
    panels = figure.subplots(max(1, down) * rows, across, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    return figure, panels if rows > 1 else panels.ravel()


def _draw(panel, image, caption="", **options):
    """Draws an image, in grey from 0 to 1 if it has neither colours nor other `options`."""
    panel.set_title(caption, fontsize="small", parse_math=False)
    grey = {} if image.ndim == 3 else {"cmap": "gray", "vmin": 0, "vmax": 1}
    return panel.imshow(image, interpolation="nearest", **(options or grey))


def _displayed(rows, shape):
    """Rows as images that matplotlib shows: (n, h, w) or (n, h, w, 3), numbers from 0 to 1."""
    images = np.asarray(rows).reshape(len(rows), *shape)
    low, high = (0, 255) if images.dtype == np.uint8 else (images.min(initial=0), images.max(initial=0))
    scaled = (images.astype(np.float64) - float(low)) / ((float(high) - float(low)) or 1.0)
    return scaled if shape[2] == 3 else scaled.mean(axis=3)


def _short(name):
    """A name, or its beginning and its end if it is long."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-(LONGEST // 2) :]}"


def _file_name(path):
    """The name of a file without its folder, or the end of it, which tells files apart; invalid bytes replaced."""
    name = " ".join(os.fsencode(os.path.basename(path)).decode("utf-8", "replace").split())
    return name if len(name) <= LONGEST_FILE else f"…{name[1 - LONGEST_FILE :]}"
