"""Data sets of the command line: digits, tables, npz files of arrays, and images."""

import dataclasses
import difflib
import os

import numpy as np

from .. import images, tables
from ..data.windows import Windows
from ..errors import shown, value_error
from ..images.idx import is_idx
from ..images.images import check_memory
from ..images.reading import has_parts, holds_images
from ..layers.standardize import Standardize
from ..tables import files as table_files
from ..tables.arrays import ARRAYS, MOST_CLASSES, read_arrays
from ..text import Text, Vocabulary
from ..text.reading import ENDINGS
from . import texts
from .networks import MODELS, check_model
from .table_data import OPTIONS as OF_TABLES
from .table_data import columns_texts, split, table_of_model, table_to_train

_FILES, _TEXTS = ", ".join([*table_files.READERS, ARRAYS]), ", ".join(ENDINGS)
KINDS = f"digits, a file ending in {_FILES}, a folder or file of images, or a text ({_TEXTS})"
# What is said of a table in more characters is on several lines.
WIDEST = 120
OF_IMAGES = "a folder with a folder of pictures for each class, an IDX file, a folder of such files, or an npz file"


def digits():
    """The handwritten digits of scikit-learn, 1,797 images of 8 x 8 pixels, scaled to [0, 1]: training and test
    rows (every fifth image), X and y each."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come from scikit-learn: pip install 'fastgd[sklearn]'") from error
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    test = np.arange(len(X)) % 5 == 4
    return (X[~test], y[~test]), (X[test], y[test])


@dataclasses.dataclass
class Data:
    """Rows of numbers. For a text X are `Windows`, and y is None.

    held_out        rows that are not trained on, (X, y), or windows, or None
    n_classes       number of classes, None for regression
    preprocessing   the `Preprocessing` of the table or of the images, the vocabulary of the text, or None
    table           the table, or None
    paths           paths of the files of pictures, or None
    front           layers that scale the features, to be put first in the network
    notes           messages for the user
    text, tail      the `Text`, and its part that is held out, or None"""

    X: np.ndarray | Windows
    y: np.ndarray | None
    held_out: tuple | Windows | None = None
    n_classes: int | None = None
    preprocessing: tables.Preprocessing | images.Preprocessing | Vocabulary | None = None
    table: object = None
    paths: list | None = None
    front: tuple = ()
    notes: list = dataclasses.field(default_factory=list)
    text: Text | None = None
    tail: Text | None = None

    @property
    def rows(self):
        """Rows of an epoch."""
        return self.X.per_epoch if self.y is None else len(self.X)

    @property
    def held_out_rows(self):
        if self.held_out is None or isinstance(self.held_out, Windows):
            return len(self.held_out or ())
        return len(self.held_out[0])

    @property
    def arrays(self):
        """All rows as arrays (X, y)."""
        return (self.X.x, self.X.y) if self.y is None else (self.X, self.y)

    @property
    def n_outputs(self):
        if self.n_classes is not None:
            return self.n_classes
        return 1 if self.y.ndim == 1 else self.y.shape[1]


def ending(path):
    """The ending of a file name that says its format, or None if it is unknown."""
    return ARRAYS if path.lower().endswith(ARRAYS) else table_files.ending(path)


def stem(path):
    """What a model is called that is trained on a path: the name without the endings."""
    name = os.path.basename(os.path.abspath(path))
    end = ending(name) or texts.ending(name) or (".gz" if is_idx(name) and name.lower().endswith(".gz") else "")
    return name[: len(name) - len(end)]


def is_table(path):
    """Whether a file, by its name, holds a table rather than arrays. Raises ValueError if it is neither."""
    if ending(path) is None:
        hint = "; did you mean 'digits'?" if difflib.get_close_matches(path, ["digits"]) else ""
        raise value_error("DATA", KINDS, f"{path!r}{hint}")
    return ending(path) != ARRAYS


def _is_of_images(path):
    """Whether a path is that of a folder or file of images, and neither of a table, of arrays nor of text."""
    return path != "digits" and ending(path) is None and holds_images(path) and not texts.is_text(path)


def one_or_texts(arguments):
    """What `fastgd.text.read` and others take as the path: the path that DATA names, or a list of several texts."""
    paths = arguments.data
    if len(paths) == 1:
        return paths[0]
    others = [] if arguments.tokens is not None else [path for path in paths if not _is_text(path)]
    if others:
        expected = "one path, or several texts"
        raise value_error("DATA", expected, f"{len(paths)} paths, of which {others[0]!r} is no text")
    return paths


def first(paths):
    """The first of several texts, after which the run is called, or the only path."""
    return paths[0] if isinstance(paths, list) else paths


def _is_text(path):
    return path != "digits" and ending(path) is None and not is_idx(path) and texts.is_text(path)


def is_of_text(arguments):
    """Whether the data are a text: --tokens says so, or the path."""
    path = arguments.data
    if getattr(arguments, "tokens", None) is not None or isinstance(path, list):
        return True
    return _is_text(path)


def data_to_train(arguments, fraction):
    """The data that `arguments.data` names, with a fraction of the rows held out. The preprocessing of a table is
    learnt from the other rows."""
    path = arguments.data
    if is_of_text(arguments):
        text, windows, tail, held_out = texts.read_to_train(arguments, fraction)
        size = len(text.vocabulary)
        return Data(windows, None, held_out, size, text.vocabulary, notes=text.notes, text=text, tail=tail)
    _check_unset(arguments, "data other than text", texts.OPTIONS)
    if arguments.network is not None or _is_of_images(path):
        return _images_to_train(arguments, fraction)
    for name in ("size", "augment"):
        if getattr(arguments, name):
            raise value_error(f"--{name}", "no such option without --model", shown(getattr(arguments, name)))
    if path == "digits":
        _check_unset(arguments, "digits", ("target", *OF_TABLES))
        (X, y), held_out = digits()
        return Data(X, y, held_out, n_classes=10)
    if not is_table(path):
        _check_unset(arguments, f"files of arrays ({ARRAYS})", OF_TABLES)
        X, y = read_arrays(path, arguments.target or "y", needs_target=True)
        X = _as_vectors(X)
        y = _checked_labels(path, y, arguments)
        rows, held_out = split(X, fraction, arguments.seed)
        n_classes = int(y.max()) + 1 if y.ndim == 1 and y.dtype.kind in "iu" else None
        held_out = None if held_out is None else (X[held_out], y[held_out])
        return Data(X[rows], y[rows], held_out, n_classes, front=(Standardize.of(X[rows]),))
    return Data(**table_to_train(arguments, fraction))


def _images_to_train(arguments, fraction):
    """As `data_to_train`, for images and a network by name."""
    path = arguments.data
    if arguments.network is None:
        raise value_error("--model", f"for images one of {', '.join(MODELS)}", None)
    if not (holds_images(path) or path.lower().endswith(ARRAYS)):
        got = repr(path) if os.path.exists(path) else f"{path!r}, which does not exist"
        raise value_error("DATA", f"for --model {OF_IMAGES}", got)
    check_model(arguments)
    _check_unset(arguments, "images", OF_TABLES)
    _check_target(arguments, path)
    for name, default in (("task", ("auto", "classification")), ("missing", ("mean",))):
        if getattr(arguments, name) not in default:
            raise value_error(f"--{name}", "no such option for images", repr(getattr(arguments, name)))
    data = images.read(path, size=arguments.size, target=arguments.target or "y")
    _check_labelled(path, data)
    if len(np.unique(data.labels)) < 2:
        raise images.ImageError(
            [images.Problem(path, "at least 2 classes", f"only {shown(data.classes[data.labels[0]])}")]
        )
    check_memory(data)  # of both parts together
    rows, held_out = split(data, fraction, arguments.seed)
    rest, kept = data.part(rows), None if held_out is None else data.part(held_out)
    _decode(rest, kept)
    held_out = None if kept is None else (kept.images, kept.labels)
    front = (Standardize.of(rest.images),)
    return Data(
        rest.images, rest.labels, held_out, len(data.classes), data.preprocessing, front=front, notes=data.notes
    )


def _check_target(arguments, path):
    if arguments.target is not None and not path.lower().endswith(ARRAYS):
        raise value_error("--target", f"no such option for images but in an {ARRAYS} file", repr(arguments.target))


def _decode(*parts):
    """Decodes images. Raises one ImageError for the files of all parts."""
    problems = []
    for one in filter(None, parts):
        try:
            one.images  # noqa: B018
        except images.ImageError as error:
            problems += error.problems
    if problems:
        raise images.ImageError(sorted(problems))


def _check_labelled(path, data):
    if data.labels is None:
        raise images.ImageError([images.Problem(path, f"images with labels: {OF_IMAGES}", "images without labels")])


def _check_unset(arguments, kind, names):
    """Raises ValueError if an option is given that this kind of data does not have."""
    for name in names:
        if getattr(arguments, name, None):
            option = f"--{name.replace('_', '-')}"
            raise value_error(option, f"no such option for {kind}", repr(getattr(arguments, name)))


def _images_of_model(arguments, preprocessing, paths, needs_target):
    _check_unset(arguments, "images", ("delimiter",))
    if arguments.unknown != "error":
        raise value_error("--unknown", "no such option for images", repr(arguments.unknown))
    _check_target(arguments, paths[0])
    path = paths[0] if len(paths) == 1 else paths
    part = "test" if has_parts(path) else None
    data = images.read(path, like=preprocessing, labels=needs_target, target=arguments.target or "y", part=part)
    if needs_target:
        _check_labelled(path, data)
    return Data(data.images, data.labels, preprocessing=preprocessing, paths=data.paths, notes=data.notes)


def data_of_model(arguments, network, paths, needs_target):
    """The data that DATA names, encoded for the network; for digits and folders of IDX files, the test rows."""
    path, preprocessing = paths[0], network.preprocessing
    if isinstance(preprocessing, Vocabulary):
        expected = "a model of a table, arrays or images"
        raise value_error("MODEL", expected, f"{arguments.model}, a model of text")
    if isinstance(preprocessing, images.Preprocessing):
        return _images_of_model(arguments, preprocessing, paths, needs_target)
    if len(paths) > 1:
        expected = f"one file, since {arguments.model} was not trained on images"
        raise value_error("DATA", expected, shown(paths))
    if _is_of_images(path):
        expected = f"no images: {arguments.model} was not trained on images"
        raise value_error("DATA", expected, repr(path))
    if path != "digits" and is_table(path):
        if preprocessing is None:
            expected = f"digits or a file ending in {ARRAYS}: {arguments.model} was not trained on a table"
            raise value_error("DATA", expected, repr(path))
        return Data(**table_of_model(arguments, network, path, needs_target))
    if preprocessing is not None:
        expected = f"a file ending in {', '.join(table_files.READERS)}: {arguments.model} was trained on a table"
        raise value_error("DATA", expected, repr(path))
    if path == "digits":
        return Data(*digits()[1])
    X, y = read_arrays(path, arguments.target or "y", needs_target=needs_target)
    X = _as_vectors(X) if len(network.input_shape) == 1 else X
    if X.shape[1:] != network.input_shape:
        expected, got = (n[0] if len(n) == 1 else n for n in (network.input_shape, X.shape[1:]))
        what = "features" if len(network.input_shape) == 1 else "numbers in each row"
        raise tables.TableError(path, "X", None, f"{expected} {what} as {arguments.model}", got)
    if y is not None and network.loss_function.name == "softmax_cross_entropy" and y.ndim == 1 and y.dtype.kind in "iu":
        strange = (y < 0) | (y >= network.output_shape[-1])
        if strange.any():
            row = int(np.argmax(strange))
            expected = f"labels in [0, {network.output_shape[-1] - 1}] as {arguments.model}"
            raise tables.TableError(path, arguments.target or "y", row + 1, expected, f"{y[row]}")
    return Data(X, y)


def _as_vectors(X):
    """Rows with several axes, such as images, as vectors."""
    return X.reshape(len(X), -1) if X.ndim > 2 else X


def _checked_labels(path, y, arguments):
    """Targets of an npz file. Integers are labels, unless the task is regression."""
    if y.ndim != 1 or y.dtype.kind not in "iu":
        return y
    target = arguments.target or "y"
    if arguments.task == "regression":
        return y.astype(np.float64)
    if y.min() == y.max():
        raise tables.TableError(path, target, None, "at least 2 classes", f"only {y.min()}")
    if not 0 <= y.min() <= y.max() < max(MOST_CLASSES, len(y)):
        row = int(np.argmin(y) if y.min() < 0 else np.argmax(y))
        expected = "labels from 0 to below the number of classes"
        raise tables.TableError(path, target, row + 1, expected, f"{y[row]}")
    return y


def described(path, data):
    """How the data at a path are used, as text; None for arrays, of which there is nothing to say."""
    if data.text is not None:
        return texts.described(" + ".join(data.text.paths) if isinstance(path, list) else path, data.text)
    if data.preprocessing is None:
        return None
    if isinstance(data.preprocessing, images.Preprocessing):
        return f"{path}: {_images_text(data)}"
    parts = columns_texts(data)
    line = f"{path}: {'; '.join(parts)}"
    return line if len(line) <= WIDEST else "\n  ".join([f"{path}:", *parts])


def _images_text(data):
    """What the images are, as one line."""
    made, count = data.preprocessing, data.rows + data.held_out_rows
    size, colours = "x".join(map(str, made.size)), "grey" if made.channels == 1 else "RGB"
    classes = f"{len(made.classes)} classes: {shown(list(made.classes))}"
    return "; ".join([f"{count:,} images of {size} pixels, {colours}", classes, *data.notes])
