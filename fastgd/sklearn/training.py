"""Training of the estimators of `fastgd.sklearn`: scikit-learn's objective, order of rows, weights, learning rates and
stopping, on fastgd's native loop.

scikit-learn's loss of a minibatch is sum(w l) / S + alpha / (2 S) (sum of squares of the network's weights), where S is
the sum of the sample weights w of its rows, or without them the number of rows. The same random state gives the same
minibatches.
"""

import dataclasses
import itertools

import numpy as np
import scipy.optimize
from scipy.sparse import issparse

from ..data.mapped import RowReader
from ..data.samples import Samples, check_targets, check_values
from ..engine.executor import usable
from ..errors import value_error
from ..layers.dense import Dense
from ..losses import LOSSES
from ..network import Network
from ..optimizers import Adam
from ..training.sampling import Minibatches

# A sparse X is converted at once if its dense form takes at most so many bytes, else a piece at a time.
DENSE_BYTES = 2**26
# Epochs that are laid out at first; later, as many as have been done, since training may stop early.
FIRST_EPOCHS = 8
# Where the weights of a single minibatch start.
FIRST = np.zeros(1, np.int64)
# scikit-learn's "adaptive" divides the learning rate by the first, and stops when it is at most the second.
ADAPTIVE_FACTOR, ADAPTIVE_END = 5.0, 1e-6


@dataclasses.dataclass(frozen=True)
class Objective:
    """scikit-learn's loss in terms of fastgd's `loss`: its gradient is `factor` times fastgd's, and the loss that it
    reports is factor * reported times fastgd's. (It reports half of the mean squared error over the outputs, but uses
    the gradient of half of the sum; its log loss and Poisson deviance are sums over the outputs.)"""

    loss: object
    factor: float
    reported: float = 1.0

    @classmethod
    def of(cls, out_activation, n_outputs):
        if out_activation == "identity":
            return cls(LOSSES["mse"], n_outputs / 2, 1 / n_outputs)
        if out_activation == "softmax":
            return cls(LOSSES["softmax_cross_entropy"], 1.0)
        name = {"logistic": "binary_cross_entropy", "exp": "poisson"}[out_activation]
        return cls(LOSSES[name], float(n_outputs))

    def terms(self, weights, rows, starts, alpha, dtype):
        """(factors of the losses, or None for 1 / rows; l2 by phase) of minibatches with these numbers of rows.
        weights: sample weights over the rows of the minibatch, or None; starts: where those of a minibatch start."""
        totals = rows
        if weights is not None:
            means = np.add.reduceat(weights.astype(np.float64), starts)
            if not means.all():
                raise value_error("sample_weight", "weights that are not all zero in any minibatch", "such a minibatch")
            totals = means * rows
            weights = weights * np.repeat(self.factor / means, rows).astype(dtype)
        elif self.factor != 1:
            weights = np.repeat(self.factor / rows, rows).astype(dtype)
        return weights, {"total": alpha / totals / self.reported, "penalty": alpha / totals}


class ClassicAdam(Adam):
    """Adam as in scikit-learn, and at the end of section 2 of its paper: eps is added to sqrt(v), not to
    sqrt(v / (1 - beta2^t))."""

    def scalars(self, lr, t):
        return *super().scalars(lr, t)[:-1], self.hyper["eps"]


class SparseRows:
    """Gathers rows of a CSR matrix as dense rows; used in place of a `RowReader`."""

    def __init__(self, x):
        self.x = x

    def take(self, index, out):
        return self.x[index].toarray(out=out.reshape(len(out), -1)).reshape(out.shape)


def samples_of(network, X, y, weight):
    """`Samples` of arrays that scikit-learn has checked. A sparse X is read through `rows` alone; `x` is an array of
    its shape that takes no memory."""
    shape, rows = (X.shape[0], *network.input_shape), None
    if not hasattr(X, "toarray"):
        x = X.reshape(shape)
    else:
        x = np.broadcast_to(np.zeros((), network.dtype), shape)
        rows = SparseRows(X.astype(network.dtype, copy=False))
    y, kernel = check_targets("y", y, len(x), network.loss_function, network.output_shape)
    check_values("y", y, network.dtype, kernel.arrays["y"], network.output_shape[-1])
    return Samples(x, y, kernel, rows or RowReader(x), weight=weight)


def dense_if_small(x):
    """X itself, or as a dense array if it is sparse and the array is small."""
    return x.toarray() if issparse(x) and x.shape[0] * x.shape[1] * x.dtype.itemsize <= DENSE_BYTES else x


def predict(network, x):
    """Predictions of the network for x, dense or CSR. scipy multiplies a CSR matrix by the weights of the first layer
    if that is Dense; the other layers run as a separate network."""
    if not issparse(x):
        return network.predict(x.reshape(len(x), *network.input_shape))
    (first, *rest), views = network.layers, network.views()
    if not isinstance(first, Dense):
        rows = max(1, DENSE_BYTES // (x.shape[1] * x.dtype.itemsize))
        return np.concatenate([predict(network, x[i : i + rows].toarray()) for i in range(0, x.shape[0], rows)])
    z = np.asarray(x @ views["w1"], network.dtype) + views["b1"]
    if first.activation.forward is not None:
        first.activation.forward(z, z.copy(), *first.activation.parameters.values())
    if not rest:
        return network.loss_function.predictions(z, network.backend)
    following = Network(z.shape[1], rest, loss=network.loss_function, dtype=str(network.dtype))
    kept = [view for name, view in views.items() if name not in ("w1", "b1")]
    for view, values in zip(following.views().values(), kept, strict=True):
        view[...] = values
    return following.predict(z)


class SameMinibatches(Minibatches):
    """scikit-learn's minibatches: a RandomState shuffles the order of the rows again before each epoch, and weights and
    penalty are divided by the sum of the sample weights of the minibatch."""

    def __init__(self, network, samples, batch_size, *, shuffle, random_state, objective, alpha):
        super().__init__(network, samples, batch_size, shuffle=shuffle)
        self.is_shuffled = shuffle  # a single minibatch, too: it advances the generator, and the order affects sums
        self._random_state, self._objective, self._alpha = random_state, objective, alpha
        self._first = self.epoch
        # _orders: the orders of epochs from `_oldest` on. _before: from before the last piece of several epochs was
        # laid out, the next epoch to draw, the order of the epoch before it, and the state of the generator.
        self._oldest, self._orders, self._before = self.epoch, [], None

    def lay_out(self, plan, optimizer, sums, last_epoch, *, whole_epochs):
        last_epoch = min(last_epoch, self.epoch + max(FIRST_EPOCHS, self.epoch - self._first))
        order = self._orders[-1] if self._orders else np.arange(self.rows)
        self._before = None
        if last_epoch > self.epoch + 1:  # training may stop before the last of the epochs; get_state takes long
            self._before = self._oldest + len(self._orders), order, self._random_state.get_state()
        steps = super().lay_out(plan, optimizer, sums, last_epoch, whole_epochs=whole_epochs)
        starts = np.cumsum(steps.rows) - steps.rows
        steps.weights, penalties = self._objective.terms(steps.weights, steps.rows, starts, self._alpha, plan.dtype)
        steps.weight_starts = None if steps.weights is None else starts
        if all((values == values[0]).all() for values in penalties.values()):
            plan.set_l2(first_of(penalties))  # the plan keeps the values that it has prepared for further steps
        else:
            steps.penalties = penalties
        return steps

    def _order_in(self, epoch):
        if not self.is_shuffled:
            return super()._order_in(epoch)
        while self._oldest < self.epoch and len(self._orders) > 1:
            self._oldest += 1
            del self._orders[0]
        while self._oldest + len(self._orders) <= epoch:
            self._orders.append(self._next_order(self._orders[-1] if self._orders else np.arange(self.rows)))
        return self._orders[epoch - self._oldest]

    def _next_order(self, order):
        order = order.copy()
        self._random_state.shuffle(order)
        return order

    def leave_random_state(self, epochs):
        """Sets the generator to its state after so many epochs; orders of later epochs may have been drawn."""
        if self.is_shuffled and self._before is not None and self._first + epochs < self._oldest + len(self._orders):
            drawn, order, state = self._before
            self._random_state.set_state(state)
            for _ in range(drawn, self._first + epochs):
                order = self._next_order(order)


def first_of(penalties):
    """l2 by phase in the first of some minibatches."""
    return {phase: float(values[0]) for phase, values in penalties.items()}


@np.errstate(all="ignore")
def penalized_step(network, samples, order, optimizer, objective, alpha):
    """The loss of a step on all samples as one minibatch, in this order of the rows; the same bits as in a run."""
    n, executor = len(samples), network.executor
    rows = np.array([n])
    x, y, weight = samples.x, samples.y, samples.weight
    if order is not None:
        x, y = x[order], y[order]
        weight = None if weight is None else weight[order]
    if weight is not None:
        weight = (weight / rows).astype(network.dtype)
    weight, penalties = objective.terms(weight, rows, FIRST, alpha, network.dtype)
    x, y = usable(x, network.dtype), usable(y, samples.y_dtype(network.dtype))
    loss = executor.penalized_step(x, y, samples.kernel, optimizer, weight, first_of(penalties))
    return n * loss / n  # the mean over the rows of the epoch, as a run computes it


def falling_rate(learning_rate, power, rows, steps_per_epoch, rows_before):
    """scikit-learn's "invscaling" as a function of the step: learning_rate in the first epoch, then
    learning_rate / (t + 1)^power, where t is the number of rows trained on before the epoch, `rows_before` of them
    before this fit."""

    def rate(step):
        epochs = step // steps_per_epoch
        return learning_rate / (rows_before + epochs * rows + 1) ** power if epochs else learning_rate

    return rate


def set_rate(optimizer, old, new):
    """Adapts the momentum of SGD to a change of its learning rate. scikit-learn stores the momentum of the steps,
    fastgd the momentum of the gradients, which is the former divided by the rate."""
    for velocity in optimizer.state.get("b", ()):
        velocity *= old / new


class EpochEnd:
    """Callback that does what scikit-learn does at the end of an epoch: records losses and scores in the estimator,
    changes the learning rate, and returns True to stop.

    rate        the current learning rate
    rows        rows of an epoch
    reported    factor of the loss, from `Objective`
    score       function that returns the score of the held-out rows, or None if there are none
    best        the parameters and statistics with the best score; initially those given"""

    def __init__(self, estimator, rate, rows, reported, score, best=None):
        self.estimator, self.rate, self.rows, self.reported, self.score = estimator, rate, rows, reported, score
        self.best = best

    def __call__(self, run):
        estimator = self.estimator
        self.record(run.history.loss[-1], run.epoch)
        if self.score is not None:
            self._record_score(run.network)
        if estimator._follows("invscaling"):
            rate = estimator.learning_rate_init / (estimator.t_ + 1) ** estimator.power_t
            set_rate(run.optimizer, self.rate, rate)
            self.rate = rate
        return estimator._no_improvement_count > estimator.n_iter_no_change and self._stops(run.optimizer)

    def record(self, loss, epoch):
        """Records the mean loss of an epoch, as fastgd defines it."""
        estimator, loss = self.estimator, loss * self.reported
        estimator.loss_ = loss
        estimator.n_iter_ = epoch
        estimator.t_ += self.rows
        estimator.loss_curve_.append(loss)
        if estimator.verbose:
            print(f"Iteration {epoch}, loss = {loss:.8f}")
        if self.score is None:
            self._count(-loss, -estimator.best_loss_)
            estimator.best_loss_ = min(loss, estimator.best_loss_)

    def _count(self, value, best):
        """Counts successive epochs without an improvement by the tolerance; NaN resets the count."""
        estimator, worse = self.estimator, value < best + self.estimator.tol
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if worse else 0

    def _record_score(self, network):
        estimator, score = self.estimator, self.score()
        estimator.validation_scores_.append(score)
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        self._count(score, estimator.best_validation_score_)
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_, self.best = score, network.state.copy()

    def _stops(self, optimizer):
        estimator = self.estimator
        message = "Training loss" if self.score is None else "Validation score"
        message += f" not better by tol={estimator.tol:g} in {estimator.n_iter_no_change} epochs:"
        if not estimator._follows("adaptive") or optimizer.learning_rate <= ADAPTIVE_END:
            if estimator.verbose:
                print(message, "stopping.")
            return True
        rate = optimizer.learning_rate / ADAPTIVE_FACTOR
        set_rate(optimizer, optimizer.learning_rate, rate)
        optimizer.learning_rate = rate
        estimator._no_improvement_count = 0
        if estimator.verbose:
            print(message, f"learning rate {rate:g}.")
        return False


def minimize(network, x, y, weight, objective, alpha, *, max_iter, max_fun, tol, verbose):
    """Minimizes the objective over all rows by L-BFGS (scipy's L-BFGS-B), starting at the parameters of a float64
    network, and leaves the result in the network. Returns scipy's result."""
    total = len(x) if weight is None else weight.sum()
    n, last = network.n_weights, [np.nan]

    def loss_and_gradient(parameters):
        network.parameters[:] = parameters
        loss, gradient = network.loss_and_gradient(x, y, sample_weight=weight)
        gradient *= objective.factor
        gradient[:n] += alpha / total * parameters[:n]
        last[0] = loss * objective.factor * objective.reported
        last[0] += alpha / total / 2 * float(np.dot(parameters[:n], parameters[:n]))
        return last[0], gradient

    counted = itertools.count(1)
    result = scipy.optimize.minimize(
        loss_and_gradient, network.parameters.copy(), method="L-BFGS-B", jac=True,
        options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
        callback=(lambda _: print(f"Iteration {next(counted)}, loss = {last[0]:.8f}")) if verbose else None,
    )  # fmt: skip
    network.parameters[:] = result.x
    return result
