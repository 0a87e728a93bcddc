"""Limited-memory BFGS with a line search, for steps that all take the same rows.

A step evaluates the loss and the gradient once, at the parameters as they are, and then moves them: to another point on
the line if the line search rejects this one, or else along a new direction. So each step of a run is a pass over the
data, as with every optimizer, and the native runner makes it. Three kernels share the work: `lbfgs_dots` takes the
gradient's products with all vectors, `lbfgs_search` decides by numbers alone, `lbfgs_move` moves.

Over 400 lines: it is a state machine with two bodies of the same functions, for numpy and for Numba."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..core.buffers import aligned_zeros
from ..core.choice import AT_LEAST_ZERO
from ..core.kernel import In, InOut, Out, kernel
from ..core.types import Array, Rate
from ..engine.program import PerStep
from ..errors import check_integer, value_error
from .base import Numbers, Optimizer, optimizer

if TYPE_CHECKING:
    from ..network import Network

# Products are summed in blocks of this many elements, so that the sums do not depend on the number of threads.
DOT_BLOCK = 4096
# Indices of `control`: the state of the search; pairs stored, and the slot of the next; accepted steps in a row that
# hardly changed the loss; trials of the line search; loss and slope at the accepted parameters, and the squares of the
# lengths of their gradient and of the direction; the step, in lengths of the direction; the interval of the line search;
# the relative rounding error of a loss.
STATE, STORED, NEXT, IDLE, TRIALS, LOSS, SLOPE, SQUARE, LENGTH, STEP = range(10)
LOW, LOW_LOSS, LOW_SLOPE, HIGH, HIGH_LOSS, HIGH_SLOPE, NOISE = range(10, 17)
CONTROL = 17
# States: before the first evaluation, in a line search, at a minimum, or stopped by a first loss that is not finite.
BEGIN, SEARCH, CONVERGED, DIVERGED = 0.0, 1.0, 2.0, 3.0
# Indices of `move`, which `lbfgs_search` tells `lbfgs_move`; then come the coefficients of the vectors.
ACTION, SLOT, OLD_STEP, NEW_STEP, WEIGHTS = range(5)
# Actions: another point on the line; a new direction from here; steepest descent from the accepted parameters; back to
# these; none.
RETRY, ACCEPT, RESTART, BACK, STAY = 0.0, 1.0, 2.0, 3.0, 4.0
# The line search accepts a step that lowers the loss by this part of what the slope promises (Armijo), and makes the
# slope less steep than this part of what it was (Wolfe).
DECREASE, CURVATURE = 1e-4, 0.9
# Trials of a line search; accepted steps in a row that change the loss by no more than its rounding, before it stops.
MOST_TRIALS, MOST_IDLE = 30, 10
# The cosine of s and y from which on a pair is stored.
LEAST_CURVATURE = 1e-10


@kernel
def lbfgs_dots(partial: Out("blocks", "k", dtype="float64"), vectors: In("v", "n"), g: In("n")):
    """partial[b] <- the sums over block b of g times each of the vectors, and of g^2, in float64."""
    g = g.astype(np.float64)
    for b in range(len(partial)):
        cut = slice(b * DOT_BLOCK, (b + 1) * DOT_BLOCK)
        partial[b, :-1] = np.einsum("vn,n->v", vectors[:, cut].astype(np.float64), g[cut])
        partial[b, -1] = np.einsum("n,n->", g[cut], g[cut])


@lbfgs_dots.loop
def lbfgs_dots(partial, vectors, g, begin, end):
    for b in range(begin, end):
        first, stop = b * DOT_BLOCK, min((b + 1) * DOT_BLOCK, g.size)
        for k in range(vectors.shape[0]):
            total = 0.0
            for i in range(first, stop):
                total += np.float64(vectors[k, i]) * np.float64(g[i])
            partial[b, k] = total
        total = 0.0
        for i in range(first, stop):
            total += np.float64(g[i]) * np.float64(g[i])
        partial[b, vectors.shape[0]] = total


def _judge(control, loss, slope, square):
    """The line search: whether it accepts the trial. If not, `control` has the next step, or 0 if there is none.

    The step is accepted by the weak Wolfe conditions or, where rounding hides the decrease, by the approximate ones of
    Hager & Zhang 2005, doi:10.1137/030601880. The next one is a secant step of the slopes beyond the interval's low end
    while there is no high end, else the minimum of the cubic through both ends."""
    step, loss0, slope0 = control[STEP], control[LOSS], control[SLOPE]
    is_finite = np.isfinite(loss) and np.isfinite(slope) and np.isfinite(square)
    falls = is_finite and loss <= loss0 + DECREASE * step * slope0
    if is_finite and loss <= loss0 + control[NOISE] * abs(loss0) and slope <= (2 * DECREASE - 1) * slope0:
        falls = True
    if falls and slope >= CURVATURE * slope0:
        return True
    control[TRIALS] += 1
    low, low_slope = control[LOW], control[LOW_SLOPE]
    if falls:
        control[LOW], control[LOW_LOSS], control[LOW_SLOPE] = step, loss, slope
    else:
        control[HIGH], control[HIGH_LOSS], control[HIGH_SLOPE] = step, loss, slope
    if control[HIGH] == np.inf:
        control[STEP] = 10 * step
        if slope > low_slope:
            control[STEP] = min(max(step - slope * (step - low) / (slope - low_slope), 2 * step), 10 * step)
    else:
        low, high = control[LOW], control[HIGH]
        width = high - low
        control[STEP] = low + 0.1 * width  # of a high end that is not finite nothing is known
        if np.isfinite(control[HIGH_LOSS]) and np.isfinite(control[HIGH_SLOPE]):
            a, b = control[LOW_SLOPE], control[HIGH_SLOPE]
            c = a + b - 3 * (control[HIGH_LOSS] - control[LOW_LOSS]) / width
            root = c * c - a * b
            found = low + 0.5 * width
            if root >= 0:
                root = np.sqrt(root)
                if b - a + 2 * root != 0:
                    found = high - width * (b + root - c) / (b - a + 2 * root)
            control[STEP] = min(max(found, low + 0.1 * width), high - 0.1 * width)
        if width <= 1e-10 * high:
            control[STEP] = 0.0
    if control[TRIALS] >= MOST_TRIALS:
        control[STEP] = 0.0
    return False


def _store(gram, control, dots, slope, square):
    """Stores the pair s = step d, y = g - (gradient before) in the next slot of `gram`, unless its curvature s y is not
    positive; returns the slot or -1. `dots`, the products of g with all vectors, become those with the new ones."""
    pairs = gram.shape[1] // 2
    before, along = gram[2 * pairs], gram[2 * pairs + 1]  # products with the gradient before, and with the direction
    step, across = control[STEP], dots[2 * pairs]
    curvature = step * (slope - control[SLOPE])
    change = square - 2 * across + control[SQUARE]
    length = step * step * control[LENGTH]
    if not curvature > LEAST_CURVATURE * np.sqrt(abs(change) * length):
        return -1
    slot = int(control[NEXT])
    for j in range(2 * pairs):
        s, y = step * along[j], dots[j] - before[j]
        gram[slot, j] = gram[j, slot] = s
        gram[pairs + slot, j] = gram[j, pairs + slot] = y
    gram[slot, slot], gram[pairs + slot, pairs + slot] = length, change
    gram[slot, pairs + slot] = gram[pairs + slot, slot] = curvature
    dots[slot], dots[pairs + slot] = step * slope, square - across
    control[NEXT] = (slot + 1) % pairs
    control[STORED] = min(control[STORED] + 1, pairs)
    return slot


def _turn(weights, gram, control, rate):
    """The direction d = sum of weights vectors, the last of which is the gradient, by the two-loop recursion on
    coefficients; its first step; and the products of d in `gram` and `control`."""
    pairs, stored, newest = gram.shape[1] // 2, int(control[STORED]), int(control[NEXT]) - 1
    before, along = gram[2 * pairs], gram[2 * pairs + 1]
    weights[:] = 0.0
    weights[2 * pairs] = -1.0
    for k in range(stored):
        i = (newest - k + pairs) % pairs
        dot = weights[2 * pairs] * before[i]
        for j in range(2 * pairs):
            dot += weights[j] * gram[i, j]
        weights[pairs + i] -= dot / gram[i, pairs + i]
    if stored:
        i = (newest + pairs) % pairs
        scale = gram[i, pairs + i] / gram[pairs + i, pairs + i]
        for j in range(pairs, 2 * pairs):
            along[j - pairs] = -weights[j]  # alpha of the recursion, kept here
        for j in range(2 * pairs + 1):
            weights[j] *= scale
    for k in range(stored - 1, -1, -1):
        i = (newest - k + pairs) % pairs
        dot = weights[2 * pairs] * before[pairs + i]
        for j in range(2 * pairs):
            dot += weights[j] * gram[pairs + i, j]
        weights[i] += along[i] - dot / gram[i, pairs + i]
    slope, length = weights[2 * pairs] * control[SQUARE], 0.0
    for j in range(2 * pairs):
        slope += weights[j] * before[j]
    for j in range(2 * pairs):
        along[j] = weights[2 * pairs] * before[j]
        for i in range(2 * pairs):
            along[j] += weights[i] * gram[i, j]
        length += weights[j] * along[j]
    length += weights[2 * pairs] * slope
    if stored and not (slope < 0 and length > 0 and length < np.inf):
        control[STORED] = 0.0
        weights[:] = 0.0
        weights[2 * pairs] = -1.0
        for j in range(2 * pairs):
            along[j] = -before[j]
        slope, length = -control[SQUARE], control[SQUARE]
    control[SLOPE], control[LENGTH], control[TRIALS], control[STATE] = slope, length, 0.0, SEARCH
    control[STEP] = rate if control[STORED] else rate * min(1.0, 1.0 / np.sqrt(control[SQUARE]))
    control[LOW], control[LOW_LOSS], control[LOW_SLOPE] = 0.0, control[LOSS], slope
    control[HIGH] = np.inf


def _searching(judge, store, turn):
    """The body of `lbfgs_search` from its parts, which Numba compiles one by one."""

    def search(ended, move, control, gram, partial, total, lr, tolerance):
        vectors = gram.shape[1] + 2
        dots, loss = partial[0], total[0]
        for b in range(1, partial.shape[0]):
            for k in range(partial.shape[1]):
                dots[k] += partial[b, k]
        slope, square = dots[vectors - 1], dots[vectors]
        move[SLOT], move[OLD_STEP] = -1.0, control[STEP]
        ended[0] = 1
        if control[STATE] == BEGIN and not (np.isfinite(loss) and np.isfinite(square)):
            control[STATE] = DIVERGED
        if control[STATE] == DIVERGED or control[STATE] == CONVERGED:
            move[ACTION] = STAY
            return
        if control[STATE] == BEGIN or judge(control, loss, slope, square):
            move[ACTION] = ACCEPT
            if control[STATE] == SEARCH:
                is_idle = abs(loss - control[LOSS]) <= control[NOISE] * abs(loss)
                control[IDLE] = control[IDLE] + 1 if is_idle else 0.0
                move[SLOT] = store(gram, control, dots, slope, square)
            control[LOSS], control[SQUARE] = loss, square
            for k in range(vectors - 2):
                gram[vectors - 2, k] = dots[k]
            if np.sqrt(square) <= tolerance or control[IDLE] >= MOST_IDLE:
                control[STATE] = CONVERGED
                move[NEW_STEP] = 0.0
                move[WEIGHTS:] = 0.0
                return
            turn(move[WEIGHTS:], gram, control, lr)
        elif control[STEP] != 0:
            move[ACTION] = RETRY
        elif control[STORED]:
            move[ACTION] = RESTART
            control[STORED] = 0.0
            turn(move[WEIGHTS:], gram, control, lr)
        else:
            move[ACTION] = BACK
            control[STATE] = CONVERGED
            return
        move[NEW_STEP] = control[STEP]
        ended[0] = 0

    return search


_search = _searching(_judge, _store, _turn)


@kernel
def lbfgs_search(
    ended: Out("one", dtype="int64"),
    move: InOut("m", dtype="float64"),
    control: InOut("c", dtype="float64"),
    gram: InOut("r", "v", dtype="float64"),
    partial: InOut("blocks", "k", dtype="float64"),
    total: In("one", dtype="float64"),
    lr: float,
    tolerance: float,
):
    """Decides what follows an evaluation: move <- action, slot of a new pair, steps, weights of the vectors; ended <- 1
    at a minimum. Nocedal & Wright 2006, algorithms 7.4 and 7.5, on coefficients as in Chen, Wang & Zhou 2014, "Large-
    scale L-BFGS using MapReduce": gram has the products of the stored s and y with each other, and, in its last two
    rows, with the gradient and with the direction."""
    _search(ended, move, control, gram, partial, total, lr, tolerance)


lbfgs_search.build_loop = lambda jit, dtype: _searching(jit(_judge), jit(_store), jit(_turn))


@kernel
def lbfgs_move(
    p: InOut("n"), accepted: InOut("n"), vectors: InOut("v", "n"), g: In("n"), move: In("m", dtype="float64")
):
    """Moves the parameters p as `lbfgs_search` says. vectors: the stored s, then the stored y, the gradient at the
    accepted parameters, and the direction."""
    action, pairs = move[ACTION], len(vectors) // 2 - 1
    gradient, direction = vectors[-2:]
    if action == STAY:
        return
    if action == ACCEPT:
        slot = int(move[SLOT])
        if slot >= 0:
            vectors[slot] = move[OLD_STEP] * direction
            vectors[pairs + slot] = g - gradient
        accepted[:], gradient[:] = p, g
    if action in (ACCEPT, RESTART):
        weights = move[WEIGHTS : WEIGHTS + 2 * pairs + 1]
        direction[:] = np.einsum("v,vn->n", weights, vectors[:-1].astype(np.float64))
    p[:] = accepted
    if action != BACK:
        p += move[NEW_STEP] * direction


@lbfgs_move.loop
def lbfgs_move(p, accepted, vectors, g, move, begin, end):
    action, pairs, slot = move[ACTION], vectors.shape[0] // 2 - 1, int(move[SLOT])
    old_step, step = p.dtype.type(move[OLD_STEP]), p.dtype.type(move[NEW_STEP])
    gradient, direction = vectors[2 * pairs], vectors[2 * pairs + 1]
    if action == STAY:
        return
    for i in range(begin, end):
        if action == ACCEPT:
            if slot >= 0:
                vectors[slot, i] = old_step * direction[i]
                vectors[pairs + slot, i] = g[i] - gradient[i]
            accepted[i], gradient[i] = p[i], g[i]
        if action == ACCEPT or action == RESTART:
            d = 0.0
            for k in range(2 * pairs + 1):
                d += move[WEIGHTS + k] * np.float64(vectors[k, i])
            direction[i] = d
        p[i] = accepted[i] if action == BACK else accepted[i] + step * direction[i]


for rule in (lbfgs_dots, lbfgs_search, lbfgs_move):
    rule.whole_state = True


@optimizer
class LBFGS(Optimizer):
    """Limited-memory BFGS (Liu & Nocedal 1989, doi:10.1007/BF01589116) with a line search by the Wolfe conditions, for
    small networks and rows that fit in memory: `fit` trains with all rows at a time, whatever its batch_size, and each
    epoch is an evaluation of loss and gradient. About one in ten of them only moves the parameters along the last
    direction. `fit` ends, with `history.stopped` "converged", when the gradient is 0 to `tolerance` or no step lowers
    the loss, at the latest after `epochs`, and leaves the best parameters that a step reached.

    learning_rate: the first trial of each line search, in lengths of the direction: 1, except for good reasons.
    memory: pairs of steps and changes of the gradient that are stored, which model the curvature.
    tolerance: number >= 0; the search ends when the Euclidean norm of the gradient is at most this.

    `train_step` may be used, too, always with the same rows. The loss has to be the same each time: layers that draw
    random numbers, such as `Dropout`, and schedules that observe the loss are refused; weight decay is the network's
    `l2`. The state has 2 memory + 3 numbers for each parameter.

    Raises TypeError or ValueError that names the argument."""

    rules = lbfgs_search, lbfgs_dots, lbfgs_move
    kernel = lbfgs_search
    ranges = Optimizer.ranges | {"tolerance": AT_LEAST_ZERO}
    training_pass: ClassVar[str | None] = "line_search"
    takes_all_rows: ClassVar[bool] = True

    def __init__(self, learning_rate: "Rate" = 1.0, *, memory: int = 10, tolerance: float = 1e-7) -> None:
        self.memory = check_integer("memory", memory, 1)
        super().__init__(learning_rate, {"tolerance": tolerance})

    def own_options(self) -> dict[str, Any]:
        return {"memory": self.memory, **self.hyper}

    @property
    def slots(self) -> list[str]:
        return []

    def scalars(self, lr: "Numbers", t: "Numbers") -> "tuple[Numbers, ...]":
        return lr, self.hyper["tolerance"]

    def _columns(self, lr, t, factor, decays):
        return self.scalars(lr, t)

    def _new_state(self, p):
        _, (vectors, accepted) = aligned_zeros([(2 * self.memory + 2) * p.size, p.size], p.dtype, eighth=2, like=p)
        control = np.zeros(CONTROL)
        control[NOISE] = np.finfo(p.dtype).eps
        gram = np.zeros((2 * self.memory + 2) * 2 * self.memory)
        return {"vectors": vectors, "accepted": accepted, "control": control, "gram": gram}

    def state_bytes(self, network: "Network") -> int:
        return (2 * self.memory + 3) * network.n_parameters * network.dtype.itemsize

    def check_network(self, network: "Network") -> None:
        super().check_network(network)
        for layer in network.layers:
            if repr(layer.without_noise()) != repr(layer):
                expected = f"one for minibatches, since the loss of a network with {layer!r} changes from step to step"
                raise value_error("optimizer", expected, repr(self))

    def write_update(self, program: Any, parts: "Sequence[tuple[str, str, Any]]") -> None:
        """Adds the kernels to a program with these parts of the parameters, of which there is one."""
        ((p, g, group),) = parts
        state = {name: arrays[0] for name, arrays in self.state.items()}
        state["vectors"] = state["vectors"].reshape(2 * self.memory + 2, -1)
        state["gram"] = state["gram"].reshape(2 * self.memory + 2, -1)
        blocks = -(-program.buffers[g].size // DOT_BLOCK)
        program.buffers |= state
        program.buffers |= {
            "move": np.zeros(WEIGHTS + 2 * self.memory + 1),
            "partial": np.zeros((blocks, 2 * self.memory + 3)),
        }
        program.add("norms", lbfgs_dots, "partial", "vectors", g)
        arrays = "bad_gradients", "move", "control", "gram", "partial", "total"
        program.add("factor", lbfgs_search, *arrays, *(PerStep((group, name)) for name in lbfgs_search.scalars))
        program.add("update", lbfgs_move, p, "accepted", "vectors", g, "move")

    # ---- not without the loss

    def _step_network(self, network, num_threads, backend):
        self._refuse()

    def _prepared_step(self, params, grads, num_threads, backend):
        self._refuse()

    def _refuse(self):
        raise value_error("optimizer", "another one, since LBFGS needs the loss: use fit or train_step", repr(self))

    # ---- in a run

    def begin_run(self) -> None:
        if self.is_bound:
            control = self.state["control"][0]
            control[STATE], control[IDLE] = BEGIN, 0.0

    @property
    def has_converged(self) -> bool:
        return self.is_bound and bool(self.state["control"][0][STATE] == CONVERGED)

    @property
    def best(self) -> "Array | None":
        """The parameters that the line search accepted last, or None if those of the network are."""
        is_in_search = self.is_bound and self.state["control"][0][STATE] == SEARCH
        return self.state["accepted"][0] if is_in_search else None
