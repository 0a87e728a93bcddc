"""Which rows come in which minibatch: laid out beforehand for the native runner, a piece of the run at a time."""

import collections.abc
import math

import numpy as np

from ..data.mapped import mapped
from ..data.minibatches import epoch_order
from ..engine.steps import Steps
from ..errors import shown, type_error, value_error

# Steps, and rows of them, that are laid out to be run in one go, and bytes of rows that are gathered beforehand.
PIECE_STEPS, PIECE_ROWS = 2**15, 2**20
STAGED_BYTES = 2**21


class Minibatches:
    """The minibatches of the samples of a training run, epoch after epoch, laid out as `Steps` from any place on.

    rows: of an epoch. epoch, position: the epoch of the next minibatch, and how many of its minibatches are done. The
    order of the rows in an epoch is a function of the seed and of the number of the epoch; without `shuffle` it is that
    of the data.
    """

    @np.errstate(all="ignore")
    def __init__(self, network, samples, batch_size, *, shuffle):
        self.network, self.samples, self.size, self.shuffle = network, samples, batch_size, shuffle
        self.epoch, self.position, self.rows = network.epochs, 0, len(samples)
        x = samples.x
        self.per_epoch = -(-self.rows // batch_size)
        y, self._y_dtype = samples.y, samples.y_dtype(network.dtype)
        if samples.target_rows is None:
            y = y if mapped(y) is None else np.array(y)  # what is read by the native loop must not vanish with a file
            self._y = np.require(y, self._y_dtype, ["C", "ALIGNED"])
        else:
            self._y = None
        usable = x.dtype == network.dtype and x.flags.c_contiguous and x.flags.aligned
        self._in_place = usable and mapped(x) is None and self._y is not None
        self._shuffled = shuffle and batch_size < self.rows  # batch descent needs no order
        width = x[0].size + y[0].size
        rows = PIECE_ROWS if self._in_place else STAGED_BYTES // (width * network.dtype.itemsize)
        self._limit = max(1, min(PIECE_STEPS, rows // batch_size))
        self._order, self._order_of = None, None

    @np.errstate(all="ignore")
    def lay_out(self, plan, optimizer, sums, last_epoch, *, whole_epochs):
        """The next steps, up to the end of `last_epoch` - 1, or of this epoch if not `whole_epochs`, as far as one
        piece goes. Rows that the kernels can read where they lie are read there, or gathered by the plan; others are
        gathered and cast here."""
        rows, index, ends = self._take(last_epoch if whole_epochs else self.epoch + 1)
        x, y, starts, samples = self.samples.x, self._y, np.cumsum(rows) - rows, self.samples
        order, weights = None, None
        if samples.weight is not None:
            weights = samples.weight[index]
            losses = np.repeat(plan.losses_in(rows), rows).reshape(-1, *[1] * (weights.ndim - 1))
            weights = (weights / losses).astype(plan.dtype)
        if not self._in_place:
            x = samples.rows.take(index, np.empty((len(index), *x.shape[1:]), plan.dtype))
            if y is not None:
                y = y[index]
            else:
                y = samples.target_rows.take(index, np.empty((len(index), *samples.y.shape[1:]), self._y_dtype))
        elif self.size == 1 or not (self._shuffled or samples.index is not None):  # rows of a step lie side by side
            starts = index[starts]
        else:
            order = index
        return Steps.of(
            plan, optimizer, x, y, rows=rows, starts=starts, order=order, weights=weights, ends=ends, sums=sums
        )

    def _take(self, last_epoch):
        """Rows of each of the next minibatches, the index of the rows in turn, and the minibatches that end an
        epoch, counted from the first."""
        parts, sizes, ends, count = [], [], [], 0
        epoch, position = self.epoch, self.position
        while epoch < last_epoch and count < self._limit:
            stop = min(self.per_epoch, position + self._limit - count)
            parts.append(self._order_in(epoch)[position * self.size : stop * self.size])
            sizes.append(np.full(stop - position, self.size, np.int64))
            count, position = count + stop - position, stop
            if stop == self.per_epoch:
                sizes[-1][-1] = self.rows - (self.per_epoch - 1) * self.size
                ends.append(count)
                epoch, position = epoch + 1, 0
        return np.concatenate(sizes), np.concatenate(parts), ends

    def _order_in(self, epoch):
        """The rows of the samples in the order of an epoch."""
        if self._order is None or (self._shuffled and self._order_of != epoch):
            index = self.samples.index
            order = epoch_order(self.rows, self.network.seed, epoch, self._shuffled)
            self._order, self._order_of = order if index is None else index[order], epoch
        return self._order

    def place_after(self, ends, s):
        """(epoch, position) after s steps of a piece that was laid out from where this stands, with such ends."""
        ended = int(np.searchsorted(ends, s, side="right"))
        return self.epoch + ended, s - int(ends[ended - 1]) if ended else self.position + s


class Stream:
    """Minibatches out of an iterable, in place of `Minibatches`."""

    def __init__(self, network, batches, epochs):
        # To ask for an iterator may open a file or start processes: that is done once an epoch, not to look.
        if not isinstance(batches, collections.abc.Iterable) and not hasattr(batches, "__getitem__"):
            expected = "an array and y, or an iterable of minibatches (x, y)"
            raise type_error("X", expected, f"{shown(batches)} and no y")
        if hasattr(batches, "__array__"):
            raise type_error("y", "targets for the rows of X", None)
        if isinstance(batches, collections.abc.Iterator) and epochs > 1:
            expected = f"an iterable that can be gone through again for each epoch, or epochs=1 instead of {epochs}"
            raise value_error("X", expected, shown(batches))
        self.batches = batches
        self.epoch, self.position = network.epochs, 0
        self.rows = self.size = self.shuffle = None
        self.per_epoch = math.inf

    def minibatches(self):
        """Those of the epoch that are not done yet."""
        for i, batch in enumerate(self.batches):
            if i < self.position:
                continue
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3) or np.ndim(batch[0]) == 0:
                raise type_error(f"X (minibatch {i})", "(x, y) or (x, y, sample_weight)", shown(batch))
            yield batch
