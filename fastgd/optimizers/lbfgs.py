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
from ..errors import check_integer, type_error, value_error
from .base import Numbers, Optimizer, optimizer

if TYPE_CHECKING:
    from ..network import Network

# Products are summed in blocks of this many elements, so that the sums do not depend on the number of threads.
DOT_BLOCK = 4096
# The k rows of `vectors`: the stored s, as many y, then the gradient at the accepted parameters, the direction, and the
# accepted parameters. Row and column i of `gram` have the products with vector i; the last ones are not used.
GRADIENT, DIRECTION, ACCEPTED = -3, -2, -1
# Indices of `control`: the state of the search; pairs stored, and the slot of the next; accepted steps in a row that
# hardly changed the loss; trials of the line search; loss and slope at the accepted parameters, the square of the
# gradient's length there; the step, in lengths of the direction; the interval of the line search; the relative rounding
# error of a loss.
STATE, STORED, NEXT, IDLE, TRIALS, LOSS, SLOPE, SQUARE, STEP = range(9)
LOW, LOW_LOSS, LOW_SLOPE, HIGH, HIGH_LOSS, HIGH_SLOPE, NOISE = range(9, 16)
# States: before the first evaluation, in a line search, at a minimum, or stopped by a first loss that is not finite.
BEGIN, SEARCH, CONVERGED, DIVERGED = 0.0, 1.0, 2.0, 3.0
# Indices of `move`, which `lbfgs_search` tells `lbfgs_move`: what to do, the slot of a new pair or -1, its step along
# the direction so far, the step along the next.
ACTION, SLOT, OLD_STEP, NEW_STEP = range(4)
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
def lbfgs_dots(partial: Out("blocks", "k", dtype="float64"), vectors: In("k", "n"), g: In("n")):
    """partial[b] <- the sums over block b of g times each of the vectors but the last, and of g^2, in float64."""
    g = g.astype(np.float64)
    for b in range(len(partial)):
        cut = slice(b * DOT_BLOCK, (b + 1) * DOT_BLOCK)
        partial[b, :-1] = np.einsum("vn,n->v", vectors[:-1, cut].astype(np.float64), g[cut])
        partial[b, -1] = np.einsum("n,n->", g[cut], g[cut])


@lbfgs_dots.loop
def lbfgs_dots(partial, vectors, g, begin, end):
    last = vectors.shape[0] - 1
    for b in range(begin, end):
        first, stop = b * DOT_BLOCK, min((b + 1) * DOT_BLOCK, g.size)
        for k in range(last + 1):
            total = 0.0
            for i in range(first, stop):
                total += np.float64(g[i] if k == last else vectors[k, i]) * np.float64(g[i])
            partial[b, k] = total


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
    if control[HIGH] <= 0:
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


def _store(gram, control, dots, slope):
    """Stores the pair s = step d, y = g - (gradient before) in the next slot of `gram`, unless its curvature s y is not
    positive; returns the slot or -1. `dots`, the products of g with all vectors, become those with the new ones."""
    pairs = (gram.shape[0] - 3) // 2
    before, along = gram[GRADIENT], gram[DIRECTION]
    step, across, square = control[STEP], dots[GRADIENT], dots[ACCEPTED]
    curvature = step * (slope - control[SLOPE])
    change = square - 2 * across + control[SQUARE]
    length = step * step * along[DIRECTION]
    if not curvature > LEAST_CURVATURE * np.sqrt(abs(change * length)):
        return -1
    slot = int(min(max(0.0, control[NEXT]), pairs - 1.0))
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
    """The direction d = sum of weights vectors by the two-loop recursion on coefficients, its products in `gram`, and
    the start of its line search."""
    pairs = (gram.shape[0] - 3) // 2
    stored = int(min(max(0.0, control[STORED]), float(pairs)))
    newest = int(min(max(0.0, control[NEXT]), float(pairs))) - 1 + pairs
    before, along = gram[GRADIENT], gram[DIRECTION]
    weights[:] = 0.0
    weights[GRADIENT] = -1.0
    for k in range(stored):
        i = (newest - k) % pairs
        dot = weights[GRADIENT] * before[i]
        for j in range(2 * pairs):
            dot += weights[j] * gram[i, j]
        weights[pairs + i] -= dot / gram[i, pairs + i]
    if stored:
        i = newest % pairs
        scale = gram[i, pairs + i] / gram[pairs + i, pairs + i]
        for j in range(pairs):
            along[j] = -weights[pairs + j]  # alpha of the recursion, kept here
        for j in range(weights.size):
            weights[j] *= scale
    for k in range(stored - 1, -1, -1):
        i = (newest - k) % pairs
        dot = weights[GRADIENT] * before[pairs + i]
        for j in range(2 * pairs):
            dot += weights[j] * gram[pairs + i, j]
        weights[i] += along[i] - dot / gram[i, pairs + i]
    slope, length = weights[GRADIENT] * control[SQUARE], 0.0
    for j in range(2 * pairs):
        slope += weights[j] * before[j]
    for j in range(2 * pairs):
        along[j] = weights[GRADIENT] * before[j]
        for i in range(2 * pairs):
            along[j] += weights[i] * gram[j, i]
        length += weights[j] * along[j]
    length += weights[GRADIENT] * slope
    if stored and not (slope < 0 and length > 0 and length < np.inf):
        control[STORED] = 0.0
        weights[:] = 0.0
        weights[GRADIENT] = -1.0
        for j in range(2 * pairs):
            along[j] = -before[j]
        slope, length = -control[SQUARE], control[SQUARE]
    along[DIRECTION] = length
    control[SLOPE], control[TRIALS], control[STATE] = slope, 0.0, SEARCH
    control[STEP] = rate
    if not control[STORED] and control[SQUARE] > 1:
        control[STEP] = rate / np.sqrt(control[SQUARE])
    control[LOW], control[LOW_LOSS], control[LOW_SLOPE] = 0.0, control[LOSS], slope
    control[HIGH] = 0.0  # none is known


def _searching(judge, store, turn):
    """The body of `lbfgs_search` from its parts, which Numba compiles one by one."""

    def search(ended, move, control, weights, gram, partial, total, lr, tolerance):
        dots, loss = partial[0], total[0]
        for b in range(1, partial.shape[0]):
            for k in range(partial.shape[1]):
                dots[k] += partial[b, k]
        ended[0] = 1
        move[SLOT], move[OLD_STEP], move[ACTION] = -1.0, control[STEP], STAY
        if weights.size < 5:
            return
        slope, square = dots[DIRECTION], dots[ACCEPTED]
        if control[STATE] == BEGIN and not (np.isfinite(loss) and np.isfinite(square)):
            control[STATE] = DIVERGED
        if control[STATE] == DIVERGED or control[STATE] == CONVERGED:
            return
        if control[STATE] == BEGIN or judge(control, loss, slope, square):
            move[ACTION] = ACCEPT
            if control[STATE] == SEARCH:
                is_idle = abs(loss - control[LOSS]) <= control[NOISE] * abs(loss)
                control[IDLE] = control[IDLE] + 1 if is_idle else 0.0
                move[SLOT] = store(gram, control, dots, slope)
            control[LOSS], control[SQUARE] = loss, square
            for k in range(weights.size - 3):
                gram[GRADIENT, k] = dots[k]
            if square <= tolerance * tolerance or control[IDLE] >= MOST_IDLE:
                control[STATE] = CONVERGED
                move[NEW_STEP] = 0.0
                weights[:] = 0.0
                return
            turn(weights, gram, control, lr)
        elif control[STEP] != 0:
            move[ACTION] = RETRY
        elif control[STORED]:
            move[ACTION] = RESTART
            control[STORED] = 0.0
            turn(weights, gram, control, lr)
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
    move: InOut("four", dtype="float64"),
    control: InOut("sixteen", dtype="float64"),
    weights: InOut("k", dtype="float64"),
    gram: InOut("k", "k", dtype="float64"),
    partial: InOut("blocks", "k", dtype="float64"),
    total: In("one", dtype="float64"),
    lr: float,
    tolerance: float,
):
    """Decides what follows an evaluation, whose loss is `total`: move <- what `lbfgs_move` does, weights <- the
    direction as a sum of vectors, ended <- 1 at a minimum. Nocedal & Wright 2006, algorithms 7.4 and 7.5, on
    coefficients as in Chen, Wang & Zhou 2014, "Large-scale L-BFGS using MapReduce": gram has the products of the
    vectors."""
    _search(ended, move, control, weights, gram, partial, total, lr, tolerance)


lbfgs_search.build_loop = lambda jit, dtype: _searching(jit(_judge), jit(_store), jit(_turn))


@kernel
def lbfgs_move(
    p: InOut("n"),
    vectors: InOut("k", "n"),
    g: In("n"),
    weights: In("k", dtype="float64"),
    move: In("four", dtype="float64"),
):
    """Moves the parameters p, and updates the vectors, as `lbfgs_search` says."""
    action, pairs = move[ACTION], (len(vectors) - 3) // 2
    if action == STAY or pairs < 1:
        return
    gradient, direction, accepted = vectors[GRADIENT:]
    if action == ACCEPT:
        if 0 <= move[SLOT] < pairs:
            slot = int(move[SLOT])
            vectors[slot] = move[OLD_STEP] * direction
            vectors[pairs + slot] = g - gradient
        accepted[:], gradient[:] = p, g
    if action in (ACCEPT, RESTART):
        direction[:] = np.einsum("v,vn->n", weights[:DIRECTION], vectors[:DIRECTION].astype(np.float64))
    p[:] = accepted
    if action != BACK:
        p += move[NEW_STEP] * direction


@lbfgs_move.loop
def lbfgs_move(p, vectors, g, weights, move, begin, end):
    action, pairs = move[ACTION], (vectors.shape[0] - 3) // 2
    slot = int(move[SLOT]) if 0 <= move[SLOT] < pairs else -1
    old_step, step = p.dtype.type(move[OLD_STEP]), p.dtype.type(move[NEW_STEP])
    if action == STAY or pairs < 1:
        return
    gradient, direction, accepted = vectors[GRADIENT], vectors[DIRECTION], vectors[ACCEPTED]
    for i in range(begin, end):
        if action == ACCEPT:
            if slot >= 0:
                vectors[slot, i] = old_step * direction[i]
                vectors[pairs + slot, i] = g[i] - gradient[i]
            accepted[i], gradient[i] = p[i], g[i]
        if action in (ACCEPT, RESTART):
            d = 0.0
            for k in range(vectors.shape[0] - 2):
                d += weights[k] * np.float64(vectors[k, i])
            direction[i] = d
        p[i] = accepted[i] if action == BACK else accepted[i] + step * direction[i]


for rule in (lbfgs_dots, lbfgs_search, lbfgs_move):
    rule.whole_state = True


@optimizer
class LBFGS(Optimizer):
    """Limited-memory BFGS (Liu & Nocedal 1989, doi:10.1007/BF01589116) with a line search by the Wolfe conditions, for
    small networks and rows that fit in memory: `fit` trains with all rows at a time, whatever its batch_size, and each
    epoch is an evaluation of loss and gradient. Fewer than one in ten of them only move the parameters along the last
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

    _internal = Optimizer._internal | {
        "accumulate", "averaged", "averages", "clip_norm", "clip_value", "decay_biases", "decoupled", "ema_decay",
        "gradient_norm", "learning_rate_factors", "observe", "state_dtype", "step", "write_update"
    }  # fmt: skip

    def __init__(
        self, learning_rate: "Rate" = 1.0, *, memory: int = 10, tolerance: float = 1e-7, **unknown: Any
    ) -> None:
        if unknown:
            raise type_error("LBFGS()", "options learning_rate, memory, tolerance", ", ".join(unknown))
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

    @property
    def _rows(self):
        """Rows of `vectors`."""
        return 2 * self.memory + 3

    def _new_state(self, p):
        _, (vectors,) = aligned_zeros([self._rows * p.size], p.dtype, eighth=2, like=p)
        control = np.zeros(16)
        control[NOISE] = np.finfo(p.dtype).eps
        return {"vectors": vectors, "control": control, "gram": np.zeros(self._rows**2)}

    def state_bytes(self, network: "Network") -> int:
        return int(self._rows * network.parameters.nbytes)

    def check_network(self, network: "Network") -> None:
        super().check_network(network)
        for layer in network.layers:
            if repr(layer.without_noise()) != repr(layer):
                expected = f"one for minibatches, since the loss of a network with {layer!r} changes from step to step"
                raise value_error("optimizer", expected, repr(self))

    def write_update(self, program: Any, parts: "Sequence[tuple[str, str, Any]]") -> None:
        """Adds the kernels to a program with these parts of the parameters, of which there is one."""
        ((p, g, group),) = parts
        arrays = {name: array[0] for name, array in self.state.items()}
        program.buffers |= {
            "vectors": arrays["vectors"].reshape(self._rows, -1),
            "control": arrays["control"],
            "gram": arrays["gram"].reshape(self._rows, -1),
            "partial": np.zeros((-(-program.buffers[g].size // DOT_BLOCK), self._rows)),
            "weights": np.zeros(self._rows),
            "move": np.zeros(4),
        }
        program.add("norms", lbfgs_dots, "partial", "vectors", g)
        used = "bad_gradients", "move", "control", "weights", "gram", "partial", "total"
        program.add("factor", lbfgs_search, *used, *(PerStep((group, name)) for name in lbfgs_search.scalars))
        program.add("update", lbfgs_move, p, "vectors", g, "weights", "move")

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
        """The parameters that the line search accepted last, or None where the network has them."""
        is_in_search = self.is_bound and self.state["control"][0][STATE] == SEARCH
        return self.state["vectors"][0].reshape(self._rows, -1)[ACCEPTED] if is_in_search else None
