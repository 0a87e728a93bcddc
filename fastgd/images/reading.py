"""Reads images from a folder, from picture files, or from a file of arrays (npz, IDX)."""

import collections
import os
from collections.abc import Sequence

import numpy as np

from ..core.files import ignored
from ..core.types import Path
from ..errors import check_flag, check_integer, choose, plain, shown, type_error, value_error
from ..tables.arrays import ARRAYS, MOST_CLASSES, read_arrays
from .errors import ImageError, Problem, size_text
from .idx import images_in, is_idx, labels_beside, read_images, read_labels
from .images import Images
from .pictures import ENDINGS, convert, damaged, headers
from .preprocessing import Preprocessing

# Files and folders that file managers, notebooks and unpackers leave behind, besides those whose names begin with ".".
HIDDEN = ("thumbs.db", "desktop.ini", "__macosx")
CHANNELS = {1: "grey", 3: "RGB"}
AS_TRAINED = "as in training, which had no size= (--size) to resize to"


def read(
    path: Path | Sequence[Path],
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    like: Preprocessing | None = None,
    labels: bool = True,
    target: str = "y",
    part: str | None = None,
) -> Images:
    """Reads images from folders of pictures, IDX files or npz files, with their labels; returns `Images`. Headers of
    picture files are checked now; pixels are decoded, and checked, when they are asked for, or if the header of some
    file is bad.

    path: one of these:
        a folder with a folder of pictures for each class (PNG, JPEG, GIF, BMP, WebP, TIFF, PPM); classes and files are
            in alphabetical order, hidden files are ignored
        a folder of pictures, a picture or a list of pictures, without labels
        an npz file of images (n, height, width[, channels]) in the array "X", or the only one beside the labels
        an IDX file of images (MNIST's format; gzipped or not), whose labels are in the file beside it
        a folder of such files, as of MNIST
    size: (height, width) in pixels, or one number for both, to which all images are resized (stretched); None is the
        size of the images, which then must all have one.
    channels: 1 (grey) or 3 (RGB), to which images are converted; None is 1 if all images are grey, else 3. Pictures are
        turned as EXIF says; transparent ones are put in front of white.
    like: the preprocessing of other images (`Images.preprocessing`) or of a network, whose size, channels and classes
        are those of these images, too. Other classes raise, and so do other sizes, unless size was given for the other
        images. Without it classes are the names of the folders, or the integer labels as text.
    labels: False reads no labels: folders may have any names, and labels beside an IDX file are left alone.
    target: name of the array of labels in an npz file.
    part: which part of a folder of IDX files to read: "train", or "test" (t10k); None is "train". Other data have no
        parts.

    Raises ImageError that names every file that cannot be used, with what was expected and what came; TableError for
    an npz file without such arrays; OSError if a folder or an IDX file cannot be opened; TypeError or ValueError that
    names the argument."""
    wanted = _Wanted(size, channels, like, labels)
    if part is not None:
        choose("part", part, dict.fromkeys(("train", "test")))
        if not has_parts(path):
            raise value_error("part", "None, since only a folder of IDX files has parts", repr(part))
    if isinstance(path, Sequence) and not isinstance(path, (str, bytes)):
        if not path:
            raise value_error("path", "at least 1 picture", shown(path))
        images: Images = wanted.pictures([_text(one) for one in path], None, wanted.classes, [])
        return images
    name = _text(path)
    if os.path.isdir(name):
        images = _read_folder(name, wanted, part)
    elif name.lower().endswith(ARRAYS):
        images = _read_npz(name, wanted, target)
    elif is_idx(name):
        images = _read_idx(name, wanted)
    else:
        images = wanted.pictures([name], None, wanted.classes, [])
    return images


def has_parts(path):
    """Whether a path is that of a folder of IDX files."""
    if isinstance(path, Sequence) and not isinstance(path, (str, bytes)):
        return False
    name = _text(path)
    return os.path.isdir(name) and bool(_idx_files(*_folders_and_files(_entries(name)[0])))


def holds_images(path):
    """Whether a path is, by its name, that of a folder, a picture or an IDX file."""
    return os.path.isdir(path) or path.lower().endswith(ENDINGS) or is_idx(path)


def _text(path):
    try:
        return os.fsdecode(path)
    except TypeError:
        raise type_error("path", "a path, or a list of paths", f"{shown(path)} ({type(path).__name__})") from None


class _Wanted:
    """The options of `read` that say how images are converted, checked."""

    def __init__(self, size, channels, like, labels):
        self.labels = check_flag("labels", labels)
        if like is not None:
            if not isinstance(like, Preprocessing):
                raise type_error("like", "a fastgd.images.Preprocessing or None", shown(like))
            for name, value in (("size", size), ("channels", channels)):
                if value is not None:
                    raise value_error(name, "None beside like", shown(value))
            self.size, self.resize = like.size, like.resize
            self.channels, self.classes = like.channels, like.classes
            return
        if size is not None:
            pair = size if isinstance(size, (tuple, list)) else (size, size)
            if len(pair) != 2:
                raise value_error("size", "(height, width), or one number for both", shown(size))
            size = check_integer("size", pair[0], 1), check_integer("size", pair[1], 1)
        channels = None if channels is None else check_integer("channels", channels, 1)
        if channels not in (None, *CHANNELS):
            raise value_error("channels", "1 (grey), 3 (RGB) or None", shown(channels))
        self.size, self.resize, self.channels, self.classes = size, size is not None, channels, None

    def pictures(self, paths, labels, classes, notes, problems=()):
        """Images of picture files, whose headers are checked. problems: of other files. Raises ImageError."""
        found = headers(paths)
        bad = [*problems, *(header for header in found if isinstance(header, Problem))]
        good = [(path, header) for path, header in zip(paths, found, strict=True) if not isinstance(header, Problem)]
        sizes = collections.Counter(header.size for _, header in good)
        size = self.size
        if size is None and sizes:
            size = max(sizes, key=lambda size: sizes[size])  # the first among the most frequent
        if not self.resize:
            hint = "or size= (--size) to resize all" if self.size is None else AS_TRAINED
            bad += [
                Problem(path, f"{size_text(size)} pixels (height x width), {hint}", size_text(header.size))
                for path, header in good if header.size != size
            ]  # fmt: skip
        if bad:
            known = {problem.path for problem in bad}
            bad += damaged([path for path, _ in good if path not in known])  # so that one error names all
            raise ImageError(sorted(bad))
        grey = sum(header.is_grey for _, header in good)
        channels = self.channels or (1 if grey == len(good) else 3)
        counts = {
            f"resized to {size_text(size)}": len(good) - sizes[size],
            "grey, read as RGB": grey if channels == 3 else 0,
            "coloured, read as grey": len(good) - grey if channels == 1 else 0,
            "with an alpha channel, put in front of white": sum(header.is_transparent for _, header in good),
        }
        notes = notes + [f"{count:,} of {len(good):,} pictures {text}" for text, count in counts.items() if count]
        return Images((*size, channels), labels, classes, paths, self.resize, notes)

    def arrays(self, pixels, labels, source, labels_source, notes):
        """Images of an array of bytes (n, h, w, c). labels: integers or None. Raises ImageError."""
        size, channels = self.size or pixels.shape[1:3], self.channels or pixels.shape[3]
        if size != pixels.shape[1:3]:
            if not self.resize:
                expected = f"{size_text(size)} pixels (height x width), {AS_TRAINED}"
                raise ImageError([Problem(source, expected, size_text(pixels.shape[1:3]))])
            notes.append(f"{len(pixels):,} images of {size_text(pixels.shape[1:3])} resized to {size_text(size)}")
        if channels != pixels.shape[3]:
            notes.append(f"{len(pixels):,} images {CHANNELS[pixels.shape[3]]}, read as {CHANNELS[channels]}")
        classes = self.classes
        if labels is not None:
            labels, classes = self._indices(labels, labels_source)
            empty = set(range(len(classes))) - set(labels.tolist()) if self.classes is None else ()
            notes += [f"no image of class {', '.join(classes[i] for i in sorted(empty))}"] if empty else []
        if (size, channels) != (pixels.shape[1:3], pixels.shape[3]):
            given, pixels = pixels, np.empty((len(pixels), *size, channels), np.uint8)
            convert(given, pixels)
        return Images((*size, channels), labels, classes, None, self.resize, notes, pixels)

    def _indices(self, values, source):
        """Labels and classes for integers, whose classes are named by their text."""
        if self.classes is None:
            strange = (values < 0) | (values >= MOST_CLASSES)
            expected = f"labels from 0 to {MOST_CLASSES - 1}"
            known = {}
        else:
            known = {name: i for i, name in enumerate(self.classes)}
            strange = np.array([str(value) not in known for value in values.tolist()], bool)
            expected = f"one of the classes {shown(list(self.classes))}"
        if strange.any():
            row = int(np.argmax(strange))
            raise ImageError([Problem(source, expected, f"{values[row]} in row {row + 1}")])
        if known:
            return np.array([known[str(value)] for value in values.tolist()], np.int64), self.classes
        return values.astype(np.int64), tuple(map(str, range(int(values.max()) + 1)))


def _entries(folder):
    """Entries of a folder by name, and the names of those to be ignored."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    hidden = {entry.name for entry in entries if entry.name.startswith(".") or entry.name.lower() in HIDDEN}
    return [entry for entry in entries if entry.name not in hidden], sorted(hidden)


def _folders_and_files(entries):
    folders, files = [], []
    for entry in entries:  # isdir is False for a link to nothing, where entry.is_dir() may raise
        (folders if os.path.isdir(entry.path) else files).append(entry)
    return folders, files


def _idx_files(folders, files):
    """The names of the IDX files, if a folder with these entries is one of IDX files."""
    names = [entry.name for entry in files if is_idx(entry.name)]
    return names if not folders or any("images" in name.lower() for name in names) else []


def _read_folder(folder, wanted, part):
    entries, hidden = _entries(folder)
    folders, files = _folders_and_files(entries)
    idx = _idx_files(folders, files)
    if idx:
        chosen = images_in(folder, idx, part or "train")
        notes = ignored(entry.name for entry in folders)
        return _read_idx(chosen, wanted, [f"read from {plain(os.path.basename(chosen))}", *notes])
    if not folders:
        if not files:
            expected = "a folder of pictures for each class, or pictures, or IDX files"
            raise ImageError([Problem(folder, expected, "an empty folder")])
        return wanted.pictures([entry.path for entry in files], None, wanted.classes, ignored(hidden))
    expected = "pictures in the folder of their class, or no folders beside them"
    problems = []
    for entry in files:
        if entry.name.lower().endswith(ENDINGS):
            problems.append(Problem(entry.path, expected, "a picture beside folders"))
        else:
            hidden.append(entry.name)
    classes = tuple(entry.name for entry in folders) if wanted.classes is None else wanted.classes
    index = {name: i for i, name in enumerate(classes)}
    paths, labels = [], []
    for entry in folders:
        if wanted.labels and entry.name not in index:
            problems.append(Problem(entry.path, f"one of the classes {shown(list(classes))}", "another folder"))
        else:
            of_class = _files_of_class(entry, hidden, problems)
            paths += of_class
            labels += [index.get(entry.name, -1)] * len(of_class)
    labels, classes = (np.array(labels, np.int64), classes) if wanted.labels else (None, wanted.classes)
    return wanted.pictures(paths, labels, classes, ignored(hidden), problems)


def _files_of_class(folder, hidden, problems):
    """Paths of the files in the folder of a class. Appends to `hidden` and to `problems`."""
    try:
        folder.name.encode("utf-8")
        entries, ignored = _entries(folder.path)
    except UnicodeEncodeError:
        problems.append(Problem(folder.path, "the name of a class in UTF-8", "other bytes"))
        return []
    except OSError as error:
        problems.append(Problem(folder.path, "a folder that can be read", error.strerror or str(error)))
        return []
    hidden += ignored
    if not entries:
        problems.append(Problem(folder.path, "at least 1 picture of the class", "none"))
    files = []
    for entry in entries:
        if os.path.isdir(entry.path):
            problems.append(Problem(entry.path, "pictures in the folder of a class", "a folder"))
        else:
            files.append(entry.path)
    return files


def _read_idx(path, wanted, notes=()):
    pixels = read_images(path)
    if not wanted.labels:
        return wanted.arrays(pixels, None, path, "", [*notes])
    beside = labels_beside(path)
    if beside is None:
        notes = [*notes, "no labels: there is no IDX file of labels beside the images"]
        return wanted.arrays(pixels, None, path, "", notes)
    labels = read_labels(beside)
    if len(labels) != len(pixels):
        raise ImageError([Problem(beside, f"{len(pixels):,} labels for the images in {path}", f"{len(labels):,}")])
    return wanted.arrays(pixels, labels, path, beside, [*notes])


def _read_npz(path, wanted, target):
    X, y = read_arrays(path, target, needs_target=False)
    pixels = X[..., np.newaxis] if X.ndim == 3 else X
    if pixels.ndim != 4 or pixels.shape[-1] not in CHANNELS or 0 in pixels.shape:
        expected = "images (n, height, width), or (n, height, width, channels) of 1 or 3 channels"
        raise ImageError([Problem(path, expected, shown(X))])
    if pixels.dtype != np.uint8:
        strange = (pixels < 0) | (pixels > 255) | (pixels != np.trunc(pixels))
        if strange.any():
            value = pixels[tuple(np.argwhere(strange)[0])]
            raise ImageError([Problem(path, "pixels that are whole numbers from 0 to 255", f"{shown(X)} with {value}")])
        pixels = pixels.astype(np.uint8)
    y = y if wanted.labels else None
    if y is not None and (y.ndim != 1 or y.dtype.kind not in "iu"):
        raise ImageError([Problem(path, f"integer labels ({len(X)},) in the array {target!r}", shown(y))])
    return wanted.arrays(pixels, y, path, path, [])
