"""Images with labels, decoded when they are asked for."""

import collections
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..core.for_users import ForUsers
from ..core.threads import default_threads
from ..data.minibatches import check_batch_size, epoch_order
from ..data.samples import split_rows
from ..errors import check_flag, check_integer, check_number, shown, type_error, value_error
from .errors import ImageError
from .pictures import decode, in_threads
from .preprocessing import Preprocessing

_Bytes: TypeAlias = npt.NDArray[np.uint8]

# The fraction of the machine's memory that decoded images may take.
MOST_MEMORY = 0.75


@dataclasses.dataclass(eq=False)
class Images(ForUsers):
    """Images from files, as `read` returns them.

    shape       of an image: (height, width, channels)
    labels      (n,) integers, indices of `classes`, or None
    classes     names of the classes, or None
    paths       path of the file of each image, or None for images from arrays
    resize      whether images of other sizes are resized to that shape, or refused
    notes       what a user may want to know: files that were ignored, images that were resized, ..."""

    _internal = frozenset({"check_network"})

    shape: tuple[int, int, int]
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    paths: list[str] | None
    resize: bool
    notes: list[str]
    _pixels: _Bytes | None = None

    def __len__(self) -> int:
        if self._pixels is not None:
            return len(self._pixels)
        return len(self.paths or ())

    @property
    def images(self) -> _Bytes:
        """All images, bytes (n, height, width, channels). Files are decoded at the first use, in threads, and only
        then. Raises ImageError that names every file that is damaged, MemoryError if the images would take more than
        three quarters of the machine's memory."""
        if self._pixels is None:
            check_memory(self)
            pixels = np.empty((len(self), *self.shape), np.uint8)
            parts = in_threads(lambda i, paths: decode(paths, pixels[i : i + len(paths)], self.resize), self.paths)
            _raise([problem for part in parts for problem in part])
            self._pixels = pixels
        return self._pixels

    @property
    def x(self) -> _Bytes:
        """`images`, for `fit` and `evaluate`."""
        return self.images

    @property
    def y(self) -> npt.NDArray[np.int64]:
        """`labels`, for `fit` and `evaluate`. Raises ValueError without labels."""
        if self.labels is None:
            raise value_error("labels", "images with classes", None)
        return self.labels

    def check_network(self, argument: str, network: Any) -> None:
        """Raises ValueError if the network has stored the names of its classes, and these images have others."""
        known = network.preprocessing
        if isinstance(known, Preprocessing) and self.classes is not None and self.classes != known.classes:
            expected = f"images with the classes {shown(list(known.classes))}, as read(..., like=network.preprocessing)"
            raise value_error(argument, f"{expected} gives", shown(list(self.classes)))

    @property
    def preprocessing(self) -> Preprocessing:
        """How these images were read, for a network to store. Raises ValueError without classes."""
        if self.classes is None:
            raise value_error("classes", "images with classes", None)
        return Preprocessing(self.classes, self.shape[:2], self.shape[2], self.resize)

    def split(self, fraction: float, seed: int = 0) -> tuple["Images", "Images"]:
        """Returns (rest, part): a `fraction` of the images, chosen by the seed, is the part. Raises ValueError unless
        the fraction lies in (0, 1) and both have images."""
        fraction = check_number("fraction", fraction, 0.0, 1.0, low_open=True, high_open=True)
        rest, part = split_rows("fraction", len(self), fraction, check_integer("seed", seed, 0))
        return self.part(rest), self.part(part)

    def part(self, index: npt.NDArray[np.integer[Any] | np.bool_] | slice) -> "Images":
        """The images that an index (integers, truth values or a slice) selects, in its order. Raises IndexError that
        names an index beyond the images, and truth values that are not as many as they."""
        chosen = self._chosen(index)
        return dataclasses.replace(
            self,
            labels=None if self.labels is None else self.labels[chosen],
            paths=None if self.paths is None else [self.paths[i] for i in chosen],
            _pixels=None if self._pixels is None else self._pixels[chosen],
        )

    def _chosen(self, index):
        """The numbers of the images that an index selects. Raises TypeError or IndexError."""
        numbers = np.arange(len(self))
        if isinstance(index, slice):
            return numbers[index]
        index = np.asarray(index)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iub"):
            raise type_error("index", "a slice, or an array (k,) of integers or of truth values", shown(index))
        if index.dtype.kind == "b" and len(index) != len(numbers):
            expected = f"{len(numbers):,} truth values, one for each image"
            raise IndexError(f"argument 'index': expected {expected}, got {len(index):,}")
        if index.dtype.kind != "b":
            strange = (index < -len(numbers)) | (index >= len(numbers))
            if strange.any():
                expected = f"integers from {-len(numbers)} to {len(numbers) - 1}"
                raise IndexError(f"argument 'index': expected {expected}, got {index[strange][0]}")
            index = index.astype(np.int64)
        return numbers[index]

    def minibatches(
        self, batch_size: int | None, *, seed: int = 0, epoch: int = 0, shuffle: bool = True
    ) -> "ImageMinibatches":
        """Minibatches (images, labels) for `fit`, which are decoded by threads some minibatches ahead, and not kept:

            net.fit(data.minibatches(32), epochs=10)

        Each iteration is an epoch, in a random order that depends on seed and epoch alone, as in `fastgd.minibatches`.
        epoch: the number of the first one. While an epoch is iterated, ImageError names files that are damaged.

        Raises TypeError or ValueError that names the argument."""
        if self.labels is None:
            raise value_error("labels", "images with labels", None)
        size = check_batch_size(batch_size, len(self))
        seed, epoch = check_integer("seed", seed, 0), check_integer("epoch", epoch, 0)
        return ImageMinibatches(self, size, seed, epoch, check_flag("shuffle", shuffle))

    def _decoded(self, index):
        """The images of these indices, decoded now."""
        if self._pixels is not None:
            return self._pixels[index]
        pixels = np.empty((len(index), *self.shape), np.uint8)
        _raise(decode([self.paths[i] for i in index], pixels, self.resize))
        return pixels

    def __repr__(self) -> str:
        classes = "" if self.classes is None else f", {len(self.classes)} classes"
        return f"Images({len(self):,} of {'x'.join(map(str, self.shape))}{classes})"


class ImageMinibatches(ForUsers):
    """An iterable of minibatches (images, labels); see `Images.minibatches`. Each iteration is the next epoch."""

    def __init__(self, images: Images, batch_size: int, seed: int, epoch: int, shuffle: bool) -> None:
        self._images, self._size, self._seed = images, batch_size, seed
        self._epoch, self._shuffle = epoch, shuffle

    def __len__(self) -> int:
        """Minibatches of an epoch."""
        return -(-len(self._images) // self._size)

    def __iter__(self) -> Iterator[tuple[_Bytes, npt.NDArray[Any]]]:
        epoch = self._epoch
        self._epoch += 1
        batches: Iterator[tuple[_Bytes, npt.NDArray[Any]]] = self._in_epoch(epoch)
        return batches

    def _in_epoch(self, epoch):
        images, size, threads = self._images, self._size, default_threads()
        order = epoch_order(len(images), self._seed, epoch, self._shuffle)
        ahead = collections.deque()  # at most threads + 1 minibatches are decoded or being decoded
        from concurrent.futures import ThreadPoolExecutor  # slow to import

        with ThreadPoolExecutor(threads) as pool:
            try:
                for start in range(0, len(order), size):
                    index = order[start : start + size]
                    ahead.append((pool.submit(images._decoded, index), index))
                    if len(ahead) > threads:
                        yield self._next(ahead)
                while ahead:
                    yield self._next(ahead)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _next(self, ahead):
        future, index = ahead.popleft()
        return future.result(), self._images.labels[index]


def check_memory(images):
    """Raises MemoryError if images that are still to be decoded would take more than MOST_MEMORY."""
    size = len(images) * math.prod(images.shape)
    most = int(MOST_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if images._pixels is None and size > most:
        expected = f"at most {most:,} bytes, {MOST_MEMORY:.0%} of the memory"
        got = f"{size:,} for {len(images):,} of {'x'.join(map(str, images.shape))}"
        hint = "a smaller size= (--size) takes less; in Python, minibatches() decodes a few images at a time"
        raise MemoryError(f"the decoded images: expected {expected}, got {got}; {hint}")


def _raise(problems):
    if problems:
        raise ImageError(problems)
