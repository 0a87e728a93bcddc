"""Base of the estimators of `fastgd.sklearn`: scikit-learn's multi-layer perceptron on a network of fastgd.

Over 400 lines: arguments, network, training and predictions share the attributes of one object."""

import contextlib
import copy
import functools
import itertools
import math
import numbers
import operator
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from scipy.sparse import sparray, spmatrix
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .._plan import WaitingLock, all_finite
from ..activations import ACTIVATIONS, Activation, sigmoid
from ..core.choice import AT_LEAST_ZERO, FRACTION, POSITIVE, pick
from ..core.types import Array
from ..data.mapped import check_mapping, mapped
from ..data.samples import check_weights
from ..engine.executor import CAST_SIZE, usable
from ..errors import DivergenceError, check_flag, check_integer, check_number, choose, shown, value_error
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from ..network import Network
from ..optimizers import OPTIMIZERS, SGD
from ..optimizers.base import Optimizer, optimizers_of_minibatches
from ..training.early_stopping import EarlyStopping
from ..training.fit import fresh_optimizer
from ..training.run import Run
from .proofs import Kept, are_rows, arrays_of, finite_rows, items_of, same
from .training import (
    ClassicAdam,
    EpochEnd,
    Objective,
    SameMinibatches,
    SparseRows,
    falling_rate,
    minimize,
    penalized_step,
    predict,
    samples_of,
)

# X of the estimators: an array or a sparse matrix.
Rows: TypeAlias = npt.ArrayLike | sparray | spmatrix
SOLVERS = ("adam", "sgd", "lbfgs")
RATES = ("constant", "invscaling", "adaptive")
NUMBERS = {
    "alpha": AT_LEAST_ZERO, "learning_rate_init": POSITIVE, "power_t": AT_LEAST_ZERO, "tol": AT_LEAST_ZERO,
    "momentum": FRACTION, "validation_fraction": FRACTION, "beta_1": FRACTION, "beta_2": FRACTION, "epsilon": POSITIVE,
}  # fmt: skip
FLAGS = ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping")
MORE = ("batch_size", "n_iter_no_change", "verbose", "learning_rate", "solver")
RECORDS = ("loss_curve_", "validation_scores_")  # lists that training appends to
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)


@functools.cache
def _arguments_of(counts):
    """A function that gets the arguments that `_check_parameters` checks: objects that cannot change, or optimizers."""
    return operator.attrgetter(*NUMBERS, *FLAGS, *counts, *MORE)


class Perceptron(BaseEstimator):
    """Common base of classifier and regressor. Subclasses encode the targets (`_encoded`, `_targets`) and compute the
    score of predictions (`_score`)."""

    coefs_: "list[Array]"
    intercepts_: "list[Array]"
    n_features_in_: int
    n_iter_: int
    n_layers_: int
    n_outputs_: int
    out_activation_: str
    t_: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None

    # Subclasses with other arguments or other layers replace these.
    _solvers: tuple[str, ...] = SOLVERS
    _counts: tuple[str, ...] = ("max_iter", "max_fun")
    _held: tuple[str, ...] = ("coefs_", "intercepts_")  # lists of the arrays of the network, in its order

    # ---- arguments

    def _check_parameters(self):
        kept, given = vars(self).get("_kept"), _arguments_of(self._counts)(self)
        if kept is not None and same(given, kept.checked):
            return
        for name, limits in NUMBERS.items():
            check_number(name, getattr(self, name), **limits)
        for name in FLAGS:
            check_flag(name, getattr(self, name))
        for name in self._counts:
            check_integer(name, getattr(self, name), 1)
        if self.batch_size != "auto":
            check_integer("batch_size", self.batch_size, 1)
        if self.n_iter_no_change != math.inf:
            check_integer("n_iter_no_change", self.n_iter_no_change, 1)
        if not isinstance(self.verbose, (bool, np.bool_)):
            check_integer("verbose", self.verbose, 0)
        choose("learning_rate", self.learning_rate, dict.fromkeys(RATES))
        if not isinstance(self.solver, Optimizer):
            choose("solver", self.solver, {**dict.fromkeys(self._solvers), **optimizers_of_minibatches()})
        elif self.solver.takes_all_rows:
            raise value_error("solver", "'lbfgs' (scipy's), or an optimizer of minibatches", repr(self.solver))
        if kept is not None:
            kept.checked = given

    def _follows(self, learning_rate):
        """Whether the learning rate follows this rule of scikit-learn's."""
        return self.solver == "sgd" and self.learning_rate == learning_rate

    def _is_stochastic(self):
        return self.solver != "lbfgs"

    def _hidden(self, sizes):
        """Returns units, activation and dropout rate of each hidden layer of these sizes, and the activation that
        determines the initial weights of the output layer."""
        known = {**ACTIVATIONS, "logistic": sigmoid}
        given = _one_each("activation", self.activation, sizes)
        without_layers = "relu" if isinstance(self.activation, (list, tuple, np.ndarray)) else self.activation
        given.append(given[-1] if given else without_layers)
        *activations, last = [pick("activation", activation, known, Activation) for activation in given]
        rates = _one_each("dropout", self.dropout, sizes)
        rates = [check_number("dropout", rate, **FRACTION) for rate in rates]
        if any(rates) and not self._is_stochastic():
            raise value_error("dropout", "0 with solver='lbfgs', whose loss must not be random", self.dropout)
        return list(zip(sizes, activations, rates, strict=True)), last

    # ---- the network

    def _initialize(self, n_features, n_outputs, out_activation, dtype, random_state):
        """Sets scikit-learn's initial weights and biases: uniform in [-b, b], b = sqrt(6 / (fan_in + fan_out)), or
        sqrt(2 / (fan_in + fan_out)) for the logistic activation (Glorot & Bengio 2010)."""
        sizes = np.ravel(self.hidden_layer_sizes).tolist()
        sizes = [check_integer(f"hidden_layer_sizes[{i}]", size, 1) for i, size in enumerate(sizes)]
        hidden, last = self._hidden(sizes)
        sizes = [n_features, *sizes, n_outputs]
        coefs, intercepts = [], []
        for fan_in, fan_out, activation in zip(sizes, sizes[1:], [*(a for _, a, _ in hidden), last], strict=False):
            bound = np.sqrt((2 if activation == sigmoid else 6) / (fan_in + fan_out))
            coefs.append(random_state.uniform(-bound, bound, (fan_in, fan_out)).astype(dtype))
            intercepts.append(random_state.uniform(-bound, bound, fan_out).astype(dtype))
        self.coefs_, self.intercepts_ = coefs, intercepts
        self.n_layers_, self.n_outputs_, self.out_activation_ = len(sizes), n_outputs, out_activation
        self.n_iter_, self.t_, self._minibatches = 0, 0, 0

    def _make_network(self, dtype, alpha=0.0, seed=0):
        """Returns a network with the present arguments and parameters; `coefs_` gives its sizes."""
        layers, units = [], [coef.shape[1] for coef in self.coefs_]
        for size, activation, rate in self._hidden(units[:-1])[0]:
            layers.append(Dense(size, activation, weight_init="zeros"))
            layers += [Dropout(rate)] if rate else []
        layers.append(Dense(units[-1], weight_init="zeros"))
        loss = Objective.of(self.out_activation_, units[-1]).loss
        network = Network(self.coefs_[0].shape[0], layers, loss=loss, l2=alpha, dtype=dtype, seed=seed)
        self._give_parameters(arrays_of(network))
        return network

    def _arrays(self):
        """The arrays of the network, those of `_held`."""
        return *self.coefs_, *self.intercepts_

    def _give_parameters(self, views):
        """Copies coefs_ and intercepts_ to these views of a network's parameters."""
        given, shapes = self._arrays(), [view.shape for view in views]
        if [np.shape(values) for values in given] != shapes:
            got = [np.shape(values) for values in given]
            raise value_error(", ".join(self._held), f"arrays of shapes {shapes}", got)
        for view, values in zip(views, given, strict=True):
            view[...] = values

    def _take_parameters(self, network, dtype):
        views = [view.astype(dtype) for view in network.views().values()]
        if not all(np.isfinite(view).all() for view in views):
            raise ValueError(NOT_FINITE)
        self.coefs_, self.intercepts_ = views[: len(self.coefs_)], views[len(self.coefs_) :]

    def _share_parameters(self, kept):
        """Makes coefs_ and intercepts_ the parameters of the network in use."""
        if not kept.has(self._arrays()):
            views = iter(kept.views)
            for name in self._held:
                setattr(self, name, list(itertools.islice(views, len(getattr(self, name)))))

    def _design(self):
        """What the layers follow from, besides the arrays: units, activation and dropout rate of each hidden layer."""
        return self._hidden([coef.shape[1] for coef in self.coefs_[:-1]])[0]

    def _is_random(self, design):
        """Whether the layers may need a seed."""
        return any(rate for _, _, rate in design)

    def _layer_arguments(self):
        """The arguments from which `_design` follows."""
        return (*items_of(self.activation), *items_of(self.dropout), self.solver)

    def _known(self):
        """`_kept`, if it was made from the present hidden layers and has coefs_ and intercepts_; else None."""
        kept = vars(self).get("_kept")
        is_known = kept is not None and same(kept.layers, self._layer_arguments())
        return kept if is_known and kept.has(self._arrays()) else None

    def _network_in_use(self):
        """The network of the last fit, or a new one if the hidden layers have changed."""
        kept = self._known()
        if kept is None:
            arguments, kept = self._layer_arguments(), vars(self).get("_kept")
            design = self._design()
            if kept is None or kept.made_from[0] != design:
                self._kept = kept = Kept(self._make_network(self.coefs_[0].dtype), (design,), arguments)
            self._give_parameters(kept.views)
            kept.layers = arguments
        return kept.network

    @property
    def _lock(self):
        """Lock for the threads that use this estimator: predictions wait for a fit, and a fit for predictions."""
        return vars(self).get("_own_lock") or vars(self).setdefault("_own_lock", WaitingLock("estimator"))

    def __getstate__(self):
        # The network is made again when it is needed: its parameters are in coefs_ and intercepts_.
        with vars(self).get("_own_lock", contextlib.nullcontext()):
            state = super().__getstate__()
            for name in self._held:  # views of the network's parameters
                if isinstance(state.get(name), list):
                    state[name] = [np.array(array) for array in state[name]]
        return {name: value for name, value in state.items() if name not in ("_kept", "_own_lock")}

    # ---- fit

    @contextlib.contextmanager
    def _unchanged_by_errors(self):
        """Context of a fit: other threads wait, and an exception leaves the estimator unchanged. Yields a list of
        functions to call in that case, which undo more than the change of attributes and the growth of lists."""
        with self._lock:
            before, undo = vars(self).copy(), []
            lists = [before[name] for name in RECORDS if before.get(name) is not None]
            lengths = [len(values) for values in lists]
            try:
                yield undo
            except Warning:  # a filter made the warning an error; the fit is complete
                raise
            except Exception:
                vars(self).update(before)
                for name in set(vars(self)) - set(before):
                    del vars(self)[name]
                for values, length in zip(lists, lengths, strict=True):
                    del values[length:]
                for restore in undo:
                    restore()
                raise

    def _fit(self, X, y, sample_weight, undo, *, incremental=False):
        self._check_parameters()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        is_first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y, factor, out_activation = self._encoded(X, y, incremental=incremental, reset=is_first)
        if sample_weight is not None:
            if isinstance(sample_weight, numbers.Real):
                sample_weight = np.full(X.shape[0], sample_weight)
            sample_weight = check_weights("sample_weight", sample_weight, X.shape[:1], self._dtype(X), scaled=False)
            if not sample_weight.any():
                raise value_error("sample_weight", "weights that are not all zero", f"0 for all {X.shape[0]} rows")
        random_state = self._generator()
        if is_first:
            self._initialize(X.shape[1], y.shape[1], out_activation, self._dtype(X), random_state)
        if self._is_stochastic():
            self._fit_in_minibatches(X, y, sample_weight, factor, random_state, undo, is_first, incremental)
        else:
            self._fit_at_once(X, y, _product(sample_weight, factor))

    def _dtype(self, X):
        """The dtype in which X is used in training."""
        return X.dtype

    def _generator(self):
        """The RandomState of a fit."""
        kept = vars(self).get("_kept")
        if type(self.random_state) is not int or kept is None or kept.generator is None:
            return check_random_state(self.random_state)
        kept.generator.seed(self.random_state)
        return kept.generator

    def _fit_at_once(self, X, y, weight):
        dtype = self.coefs_[0].dtype
        network, objective = self._make_network("float64"), Objective.of(self.out_activation_, self.n_outputs_)
        X = np.asarray(X.toarray() if hasattr(X, "toarray") else X, np.float64)
        try:
            result = minimize(
                network, X, self._targets(y, np.float64), weight, objective, self.alpha, max_iter=self.max_iter,
                max_fun=self.max_fun, tol=self.tol, verbose=bool(self.verbose),
            )  # fmt: skip
        except KeyboardInterrupt:  # keeps the parameters reached so far
            self._take_parameters(network, dtype)
            raise
        self.n_iter_, self.loss_ = min(int(result.nit), self.max_iter), float(result.fun)
        self._take_parameters(network, dtype)
        self._kept = None
        self._network_in_use()
        self._share_parameters(self._kept)
        if result.status:
            iterations = f"{self.n_iter_} of max_iter={self.max_iter} iterations"
            message = f"lbfgs did not converge in {iterations}: {result.message}"
            warnings.warn(message, ConvergenceWarning, stacklevel=4)

    def _fit_in_minibatches(self, X, y, sample_weight, factor, random_state, undo, is_first, incremental):
        if is_first or not hasattr(self, "loss_curve_") or (self.best_loss_ is None) != self.early_stopping:
            self._begin_record()
        held_out = None
        if self.early_stopping:
            X, y, sample_weight, factor, held_out = self._split(X, y, sample_weight, factor, random_state)
        rows = X.shape[0]
        if self.batch_size != "auto" and self.batch_size > rows:
            warnings.warn(f"batch_size={self.batch_size} is clipped to the {rows} rows", stacklevel=4)
        size = min(200 if self.batch_size == "auto" else self.batch_size, rows)
        before = vars(self).get("_kept")
        network, optimizer = self._network_to_train(random_state, incremental)
        objective = Objective.of(self.out_activation_, self.n_outputs_)
        samples = samples_of(network, X, self._targets(y, network.dtype), _product(sample_weight, factor))
        self.n_iter_ = 0
        if incremental and size == rows and self._may_be_one_step(samples, optimizer):
            warning = self._step(samples, optimizer, random_state, objective)
        else:
            if self._kept is before:  # the steps change its parameters and its optimizer in place
                undo.append(self._training_state())
            score = None if held_out is None else functools.partial(self._score, network, *held_out)
            # A warm start keeps the earlier best score: it has best parameters once a score is better than that.
            first = network.state.copy() if self.early_stopping and is_first else None
            end = EpochEnd(self, optimizer.learning_rate, rows, objective.reported, score, first)
            warning = self._run(samples, size, optimizer, random_state, objective, end, incremental)
        self._minibatches = network.minibatches
        if not all_finite(network.state):
            raise ValueError(NOT_FINITE)
        self._share_parameters(self._kept)
        self._kept.generator = random_state if type(self.random_state) is int else None
        if warning is not None:
            warnings.warn(warning, stacklevel=4)

    def _run(self, samples, size, optimizer, random_state, objective, end, incremental):
        """Trains for one epoch if `incremental`, else until it ends; returns a warning, or None."""
        network, rows = self._kept.network, len(samples)
        if self._follows("invscaling") and not incremental:
            optimizer.learning_rate = falling_rate(end.rate, self.power_t, rows, -(-rows // size), self.t_)
        source = SameMinibatches(
            network, samples, size, shuffle=self.shuffle, random_state=random_state, objective=objective,
            alpha=self.alpha,
        )  # fmt: skip
        early_stopping = EarlyStopping(network, (), samples, None, None, 0.0, None, False)
        epochs = 1 if incremental else self.max_iter
        warning = self._train(Run(network, optimizer, source, epochs, early_stopping, [end], None, None, None, None))
        source.leave_random_state(self.n_iter_)
        if self._follows("invscaling"):
            optimizer.learning_rate = end.rate
        if end.best is not None:
            network.state[:] = end.best
        if self.n_iter_ == self.max_iter and network.history.stopped == "epochs" and not incremental:
            warning = ConvergenceWarning(f"not converged after max_iter={self.max_iter} epochs")
        return warning

    def _may_be_one_step(self, samples, optimizer):
        """Whether an epoch that is one minibatch can be a step without a `Run`: the step is all that happens, and it
        changes nothing if it fails."""
        x, network = samples.x, self._kept.network
        if isinstance(samples.rows, SparseRows) or mapped(x) is not None or self.verbose:
            return False
        if self._follows("invscaling") or self._follows("adaptive"):
            return False
        if x.dtype != network.dtype and not all_finite(usable(x, network.dtype)):  # a run diverges
            return False
        if getattr(optimizer.schedule, "observes_loss", False):
            return False
        # An update by a user's function may be half done when that raises.
        return not network.executor.training_plan(len(x), samples.kernel, optimizer).users_links

    def _step(self, samples, optimizer, random_state, objective):
        """An epoch of one minibatch; returns a warning, or None."""
        network, rows = self._kept.network, len(samples)
        order = None
        if self.shuffle:
            order = np.arange(rows)
            random_state.shuffle(order)
        try:
            loss = penalized_step(network, samples, order, optimizer, objective, self.alpha)
        except KeyboardInterrupt:
            return UserWarning("training interrupted by the user")
        except DivergenceError as error:
            raise ValueError(NOT_FINITE) from error
        EpochEnd(self, optimizer.learning_rate, rows, objective.reported, None).record(loss, 1)
        return None

    def _training_state(self):
        """A function that restores the parameters of the network in use, and its optimizer."""
        network, optimizer = self._kept.network, copy.deepcopy(self._optimizer)
        state = network.state.copy()

        def restore():
            network.state[:] = state
            self._optimizer, self._kept = optimizer, None  # that network belongs to the optimizer in use

        return restore

    def _begin_record(self):
        self.loss_curve_, self._no_improvement_count = [], 0
        self.best_loss_ = None if self.early_stopping else np.inf
        self.validation_scores_ = [] if self.early_stopping else None
        self.best_validation_score_ = -np.inf if self.early_stopping else None

    def _network_to_train(self, random_state, incremental):
        """Returns a network with the present parameters, and its optimizer: for partial_fit the previous ones, as long
        as the arguments have not changed, else new ones."""
        kept, arguments = self._known(), self._layer_arguments()
        design = self._design() if kept is None else kept.made_from[0]
        made_from = design, self.out_activation_, self.coefs_[0].dtype, self.alpha
        continues = incremental and getattr(self, "_optimizer", None) is not None
        known, kept = kept, getattr(self, "_kept", None)
        if continues and kept is not None and kept.made_from == made_from:
            if known is None:
                self._give_parameters(kept.views)
                kept.layers = arguments
        else:
            if not continues:
                self._seed = int(random_state.randint(2**31)) if self._is_random(design) else 0
            network = self._make_network(self.coefs_[0].dtype, self.alpha, self._seed)
            network.counter[0] = getattr(self, "_minibatches", 0)  # masks of Dropout differ from the earlier ones
            self._kept = Kept(network, made_from, arguments)
            # An optimizer is bound to its network; a copy is not.
            self._optimizer = copy.deepcopy(self._optimizer) if continues else self._new_optimizer()
        return self._kept.network, self._optimizer

    def _new_optimizer(self):
        rate, solver = self.learning_rate_init, self.solver
        if solver == "adam":
            return ClassicAdam(rate, beta1=self.beta_1, beta2=self.beta_2, eps=self.epsilon)
        if solver == "sgd":
            return SGD(rate, momentum=self.momentum, nesterov=bool(self.nesterovs_momentum and self.momentum))
        return fresh_optimizer(solver) if isinstance(solver, Optimizer) else OPTIMIZERS[solver](rate)

    def _split(self, X, y, sample_weight, factor, random_state):
        """Splits the rows as scikit-learn does; returns X, y, sample_weight and factor of the training rows, and
        (X, y, sample_weight) of the held-out rows."""
        given = [X, y, *(a for a in (sample_weight, factor) if a is not None)]
        stratify = y if self.out_activation_ == "logistic" and y.shape[1] == 1 else None
        parts = train_test_split(
            *given, random_state=random_state, test_size=self.validation_fraction, stratify=stratify
        )
        trained, held_out = parts[::2], parts[1::2]
        if held_out[0].shape[0] < 2:
            expected = "a fraction that holds out at least 2 rows"
            error = value_error("validation_fraction", expected, self.validation_fraction)
            raise ValueError(f"The validation set is too small: {error}")
        weights = [None if sample_weight is None else part[2] for part in (trained, held_out)]
        factor = None if factor is None else trained[-1]
        return *trained[:2], weights[0], factor, (*held_out[:2], weights[1])

    def _train(self, run):
        """Executes the run; returns a warning, or None. A run that diverges ends, with the best parameters if there are
        held-out rows; without these it raises ValueError."""
        try:
            run.go()
        except KeyboardInterrupt:
            return UserWarning("training interrupted by the user")
        except DivergenceError as error:
            if not self.early_stopping:
                raise ValueError(NOT_FINITE) from error
            self.n_iter_ += 1
            self.loss_ = math.nan
            self.loss_curve_.append(math.nan)
            self.validation_scores_.append(math.nan)
            return ConvergenceWarning(f"the best parameters so far are kept: {error}")
        return None

    # ---- predict

    @property
    def network_(self) -> Network:
        """A new `fastgd.Network` with the present weights, for `to_onnx`, `save`, `describe`."""
        check_is_fitted(self)
        with self._lock:
            network: Network = self._make_network(self.coefs_[0].dtype)
        return network

    def _validated(self, *arrays, **options):
        """X, or X and y, checked by scikit-learn, which reads every number."""
        for array in arrays:
            if isinstance(array, np.ndarray):
                check_mapping(array)
        return validate_data(self, *arrays, accept_sparse="csr", **options)

    def _predictions(self, X: "Rows", finish: "Callable[[Array], Array]") -> "Array":
        """Returns finish(predictions) for the network's predictions (rows, n_outputs) for X, with the parameters in
        `coefs_` and `intercepts_`."""
        own, rows = vars(self), cast(Any, X)
        if "coefs_" in own and "feature_names_in_" not in own and are_rows(rows, own.get("n_features_in_")):
            with self._lock:
                network = self._network_in_use()
                # Its fast path finds numbers that are not finite.
                if rows.dtype == network.dtype or rows.size <= CAST_SIZE:
                    found = network.executor.fast["predict"](self._shaped(usable(rows, network.dtype)), None)
                    if found is not None:
                        return finish(found)
        check_is_fitted(self)
        checked = self._validated(X, reset=False)
        with self._lock:
            return finish(predict(self._network_in_use(), checked))

    def _shaped(self, X):
        """Rows of features in the shape that the network takes."""
        return X

    def _finite_rows(self, X):
        """`finite_rows` for the features of the last fit; None if these have names, which scikit-learn checks."""
        own = vars(self)
        return None if "feature_names_in_" in own else finite_rows(X, own.get("n_features_in_"))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _one_each(name, value, sizes):
    """A list with one value for each hidden layer, from such a list or a single value."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return [value] * len(sizes)
    if len(value) != len(sizes):
        raise value_error(name, f"one, or one for each of {len(sizes)} hidden layers", shown(value))
    return list(value)


def _product(one, other):
    """The product of two arrays, either of which may be None, for 1."""
    return other if one is None else one if other is None else one * other
