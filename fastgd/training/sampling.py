"""The minibatches of a training run: which rows each takes, laid out a piece of the run at a time."""

import collections.abc
import math

import numpy as np

from ..data.mapped import mapped
from ..data.minibatches import epoch_order
from ..engine.steps import Steps
from ..errors import shown, type_error, value_error

# A piece has at most so many steps and rows; where its rows are copied, the copies take at most so many bytes.
PIECE_STEPS, PIECE_ROWS = 2**15, 2**20
STAGED_BYTES = 2**21


class Minibatches:
    """The minibatches of samples, epoch after epoch, laid out as `Steps` from any position on.

    rows                rows of an epoch
    size, per_epoch     rows of a minibatch; minibatches of an epoch
    epoch, position     the epoch of the next minibatch, and how many minibatches of that epoch are done

    The order of the rows in an epoch depends on the seed and the number of the epoch alone; without `shuffle` it is the
    order of the data."""

    @np.errstate(all="ignore")
    def __init__(self, network, samples, batch_size, *, shuffle):
        self.network, self.samples, self.size, self.shuffle = network, samples, batch_size, shuffle
        self.epoch, self.position, self.rows = network.epochs, 0, len(samples)
        x = samples.x
        self.per_epoch = -(-self.rows // batch_size)
        y, self._y_dtype = samples.y, samples.y_dtype(network.dtype)
        if samples.target_rows is None:
            y = y if mapped(y) is None else np.array(y)  # the native loop must not read pages that a file may lose
            self._y = np.require(y, self._y_dtype, ["C", "ALIGNED"])
        else:
            self._y = None
        usable = x.dtype == network.dtype and x.flags.c_contiguous and x.flags.aligned
        self._in_place = usable and mapped(x) is None and self._y is not None
        self._shuffled = shuffle and batch_size < self.rows  # for a single minibatch the order does not matter
        width = x[0].size + y[0].size
        rows = PIECE_ROWS if self._in_place else STAGED_BYTES // (width * network.dtype.itemsize)
        self._limit = max(1, min(PIECE_STEPS, rows // batch_size))
        self._order, self._order_of = None, None

    @np.errstate(all="ignore")
    def lay_out(self, plan, optimizer, sums, last_epoch, *, whole_epochs):
        """Returns the next steps: up to the end of epoch `last_epoch` - 1, or of the current epoch if not
        `whole_epochs`, but no more than fit in a piece. Kernels read rows in place where they can, or the plan gathers
        them; other rows are gathered and cast here."""
        rows, index, ends = self._next_minibatches(last_epoch if whole_epochs else self.epoch + 1)
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

    def _next_minibatches(self, last_epoch):
        """The number of rows of each minibatch; the indices of all rows in turn; and after how many minibatches an
        epoch ends."""
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
        """The indices of the rows of the samples, in the order of an epoch."""
        if self._order is None or (self._shuffled and self._order_of != epoch):
            index = self.samples.index
            order = epoch_order(self.rows, self.network.seed, epoch, self._shuffled)
            self._order, self._order_of = order if index is None else index[order], epoch
        return self._order

    def position_after(self, ends, s):
        """(epoch, position) after s steps of the piece laid out from the current position; an epoch ends after each
        number of steps in `ends`."""
        ended = int(np.searchsorted(ends, s, side="right"))
        return self.epoch + ended, s - int(ends[ended - 1]) if ended else self.position + s


class Stream:
    """The minibatches of an iterable; used in place of `Minibatches`."""

    def __init__(self, network, batches, epochs):
        # iter(batches) may open a file or start processes: it is called once an epoch, not for this check.
        if not isinstance(batches, collections.abc.Iterable) and not hasattr(batches, "__getitem__"):
            expected = "an array and y, or an iterable of minibatches (x, y)"
            raise type_error("X", expected, f"{shown(batches)} and no y")
        if hasattr(batches, "__array__"):
            raise type_error("y", "targets for the rows of X", None)
        if isinstance(batches, collections.abc.Iterator) and epochs > 1:
            expected = f"an iterable that can be iterated again each epoch, or epochs=1 instead of {epochs}"
            raise value_error("X", expected, shown(batches))
        self.batches = batches
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
