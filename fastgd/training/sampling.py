"""The minibatches of a training run: which rows each takes, laid out a piece of the run at a time."""

import bisect
import collections.abc
import functools
import math

import numpy as np

from ..data.mapped import mapped
from ..data.minibatches import epoch_order
from ..data.windows import shift_of_epoch
from ..engine.executor import usable
from ..engine.steps import Steps
from ..errors import shown, type_error, value_error

# A piece has at most so many steps and rows; where its rows are copied, the copies take at most so many bytes.
PIECE_STEPS, PIECE_ROWS = 2**15, 2**20
STAGED_BYTES = 2**21


class Minibatches:
    """The minibatches of samples, epoch after epoch, laid out as `Steps` from any position on.

    rows                rows of an epoch
    size, per_epoch     rows of a minibatch; minibatches of an epoch
    limit               minibatches that are laid out at a time, at most
    y                   the targets as kernels read them, or None if they are read from a file
    is_in_place         whether kernels read the rows in place, or gather them
    is_shuffled         whether the order of the rows is random
    epoch, position     the epoch of the next minibatch, and how many minibatches of that epoch are done

    share: (a, b, n) if this process trains on the n-ths [a, b) of the rows of each minibatch alone; where rows are
    gathered, others are not read, and are 0.

    The rows of an epoch and their order depend on the seed and the number of the epoch alone; without `shuffle` it is
    the order of the data."""

    def __init__(self, network, samples, batch_size, *, shuffle, share=None):
        self.network, self.samples, self.size, self.shuffle = network, samples, batch_size, shuffle
        self.epoch, self.position, self.rows = network.epochs, 0, len(samples)
        x = samples.x
        self.per_epoch = -(-self.rows // batch_size)
        y, self.y_dtype = samples.y, samples.y_dtype(network.dtype)
        if samples.target_rows is None:
            y = y if mapped(y) is None else np.array(y)  # the native loop must not read pages that a file may lose
            self.y = usable(y, self.y_dtype)
        else:
            self.y = None
        is_usable = x.dtype == network.dtype and x.flags.c_contiguous and x.flags.aligned
        self.is_in_place = is_usable and mapped(x) is None and self.y is not None
        self.is_shuffled = shuffle and batch_size < self.rows  # for a single minibatch the order does not matter
        self.shifts = samples.shifts if shuffle else 1
        rows = PIECE_ROWS
        if not self.is_in_place:
            rows = STAGED_BYTES // ((x[0].size + y[0].size) * network.dtype.itemsize)
        self.limit = max(1, min(PIECE_STEPS, rows // batch_size))
        self._order, self._order_of, self._share = None, None, share

    def lay_out(self, plan, optimizer, sums, last_epoch, *, whole_epochs):
        """Returns the next steps: up to the end of epoch `last_epoch` - 1, or of the current epoch if not
        `whole_epochs`, but no more than fit in a piece. Kernels read rows in place where they can, or the plan gathers
        them; other rows are gathered and cast here."""
        last_epoch = last_epoch if whole_epochs else self.epoch + 1
        rows, starts, slices, ends = self.lengths(self.position, last_epoch - self.epoch)
        parts = [self._order_in(self.epoch + i)[part] for i, part in enumerate(slices)]
        index = parts[0] if len(parts) == 1 else np.concatenate(parts)
        x, y, samples, order, weights = self.samples.x, self.y, self.samples, None, None
        if samples.weight is not None:
            weights = samples.weight[index]
            losses = np.repeat(plan.losses_in(rows), rows).reshape(-1, *[1] * (weights.ndim - 1))
            with np.errstate(all="ignore"):
                weights = (weights / losses).astype(plan.dtype)
        if not self.is_in_place:
            own = None if self._share is None else np.flatnonzero(_are_of_share(rows, *self._share))
            x = _gathered(samples.rows, index, own, plan.dtype)
            y = y[index] if y is not None else _gathered(samples.target_rows, index, own, self.y_dtype)
        elif self.size == 1 or not (self.is_shuffled or samples.index is not None):  # rows of a step lie side by side
            starts = index[starts]
        else:
            order = index
        return Steps.of(
            plan, optimizer, x, y, rows=rows, starts=starts, order=order, weights=weights, ends=ends, sums=sums
        )

    def lengths(self, position, epochs):
        """What `_piece` returns for these minibatches, from a position in an epoch on."""
        return _piece(self.rows, self.size, position, epochs, self.limit)

    def _order_in(self, epoch):
        """The indices of the rows of the samples, in the order of an epoch."""
        if self._order is None or (self._order_of != epoch and (self.is_shuffled or self.shifts > 1)):
            index = self.samples.index
            order = epoch_order(self.rows, self.network.seed, epoch, self.is_shuffled)
            self._order, self._order_of = order if index is None else index[order], epoch
            if self.shifts > 1:
                self._order += shift_of_epoch(self.network.seed, epoch, self.shifts)
        return self._order

    def position_after(self, ends, s):
        """(epoch, position) after s steps of the piece laid out from the current position; an epoch ends after each
        number of steps in `ends`."""
        ended = bisect.bisect_right(ends, s)
        return self.epoch + ended, s - int(ends[ended - 1]) if ended else self.position + s


def _gathered(reader, index, own, dtype):
    """The rows `index` that a reader gives, cast; of these only the rows `own`, the others 0, unless that is None."""
    shape = reader.x.shape[1:]
    if own is None:
        return reader.take(index, np.empty((len(index), *shape), dtype))
    rows = np.zeros((len(index), *shape), dtype)  # memory that is not written takes no pages
    if len(own):
        rows[own] = reader.take(index[own], np.empty((len(own), *shape), dtype))
    return rows


def _are_of_share(sizes, begin, end, parts):
    """Whether each row of minibatches of these sizes is one of the parts [begin, end) of its minibatch."""
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    low, high = np.repeat(sizes * begin // parts, sizes), np.repeat(sizes * end // parts, sizes)
    return (low <= within) & (within < high)


@functools.lru_cache(8)
def _piece(rows, size, position, epochs, limit):
    """Minibatches of at most `size` of `rows` rows, for so many epochs, but at most `limit` minibatches; the first
    epoch begins at the minibatch `position`. Returns the rows of each, the sum of those before it, a slice of the
    epoch's rows for each epoch, and after how many minibatches each epoch ends. Repeated calls of `fit` ask for the
    same."""
    per_epoch, sizes, slices, ends, count = -(-rows // size), [], [], [], 0
    while len(ends) < epochs and count < limit:
        stop = min(per_epoch, position + limit - count)
        slices.append(slice(position * size, stop * size))
        sizes.append(np.full(stop - position, size, np.int64))
        count, position = count + stop - position, stop
        if stop == per_epoch:
            sizes[-1][-1] = rows - (per_epoch - 1) * size
            ends.append(count)
            position = 0
    sizes = np.concatenate(sizes)
    made = sizes, np.cumsum(sizes) - sizes, slices, np.array(ends, np.int64)
    for array in (made[0], made[1], made[3]):
        array.flags.writeable = False
    return made


def is_iterable(data):
    """Whether `iter` may take data; it is not called."""
    return isinstance(data, collections.abc.Iterable) or hasattr(data, "__getitem__")


class Stream:
    """The minibatches of an iterable; used in place of `Minibatches`."""

    def __init__(self, network, batches, epochs, *, allow_negative=False):
        # iter(batches) may open a file or start processes: it is called once an epoch, not for this check.
        if not is_iterable(batches):
            expected = "an array and y, or an iterable of minibatches (x, y)"
            raise type_error("X", expected, f"{shown(batches)} and no y")
        if hasattr(batches, "__array__"):
            raise type_error("y", "targets for the rows of X", None)
        if isinstance(batches, collections.abc.Iterator) and epochs > 1:
            expected = f"an iterable that can be iterated again each epoch, or epochs=1 instead of {epochs}"
            raise value_error("X", expected, shown(batches))
        self.batches, self.allow_negative = batches, allow_negative
        self.epoch, self.position = network.epochs, 0
        self.rows = self.size = self.shuffle = None
        self.per_epoch = math.inf

    def minibatches(self):
        """Yields the minibatches of the current epoch that are not done yet."""
        for i, batch in enumerate(self.batches):
            if i < self.position:
                continue
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3) or np.ndim(batch[0]) == 0:
                raise type_error(f"X (minibatch {i})", "(x, y) or (x, y, sample_weight)", shown(batch))
            yield batch
