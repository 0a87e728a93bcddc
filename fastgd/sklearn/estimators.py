"""scikit-learn's MLPClassifier and MLPRegressor, trained by fastgd (extra `sklearn`), and the base of classifiers.

    from fastgd.sklearn import MLPClassifier  # in place of sklearn.neural_network

Arguments, defaults, fitted attributes and results are scikit-learn's: the same random_state gives the same initial
weights, minibatches, losses and epochs, up to rounding. New are dropout, an activation for each layer, the activations
and optimizers of fastgd, and class_weight. The docstrings of the classes list the differences.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

try:
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.metrics import r2_score
    from sklearn.utils import column_or_1d
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
    from sklearn.utils.validation import validate_data  # noqa: F401  which older versions do not have
except ImportError as error:
    raise ImportError("fastgd.sklearn needs scikit-learn, 1.7 or newer: pip install 'fastgd[sklearn]'") from error

from ..activations import Activation
from ..core.types import Array
from ..errors import check_number, choose, shown, value_error
from ..optimizers.base import Optimizer
from .perceptron import Perceptron, Rows
from .proofs import are_flags, are_labels, are_numbers
from .training import dense_if_small, predict

Method = TypeVar("Method", bound=Callable[..., object])
# The decorator's type, which scikit-learn does not give: it keeps the method's signature.
_if_stochastic: Callable[[Method], Method] = available_if(Perceptron._is_stochastic)


class Classifier(ClassifierMixin, Perceptron):
    """Common base of the classifiers. They have an argument class_weight."""

    classes_: "npt.NDArray[Any]"
    class_weight: dict[Any, float] | str | None
    # Subclasses with other data or outputs replace these.
    _dtypes: Any = (np.float64, np.float32)  # of X, for scikit-learn's check
    _two_classes_share: bool = True  # whether two classes have one output

    def fit(self, X: "Rows", y: "npt.ArrayLike", sample_weight: "npt.ArrayLike | None" = None) -> Self:
        """Trains on X (rows, features), an array or a sparse matrix, and labels y (rows,), or (rows, labels) of 0 and 1
        for multi-label. Returns self."""
        with self._unchanged_by_errors() as undo:
            self._fit(X, y, sample_weight, undo)
        return self

    @_if_stochastic
    def partial_fit(
        self,
        X: "Rows",
        y: "npt.ArrayLike",
        sample_weight: "npt.ArrayLike | None" = None,
        classes: "npt.ArrayLike | None" = None,
    ) -> Self:
        """Trains for one more epoch, from where the last call left off. classes: all labels, at the first call."""
        if isinstance(self.class_weight, str):
            expected = "a dict or None for partial_fit, which gets only some of the rows"
            raise value_error("class_weight", expected, repr(self.class_weight))
        first = not hasattr(self, "classes_")
        if first and classes is None:
            raise value_error("classes", "all labels at the first call of partial_fit", None)
        if not first and classes is not None and not self._are_all(classes):
            raise value_error("classes", f"{self.classes_} as at the first call", shown(classes))
        with self._unchanged_by_errors() as undo:
            if first:
                self.classes_ = unique_labels(classes)
            self._fit(X, y, sample_weight, undo, incremental=True)
        return self

    def _encoded(self, X, y, *, incremental, reset):
        """Returns X, labels as columns of bool, class weights of the rows or None, and the output activation."""
        checked = None if reset or self.warm_start else self._finite_rows(X)
        if checked is not None and self._are_known(y, len(checked)):
            X = checked
        else:
            X, y = self._checked(X, y, incremental=incremental, reset=reset)
        factor = self._factor(y)
        out_activation, classes = "logistic", self.classes_
        if y.ndim == 2:
            columns = np.asarray(y.toarray() if hasattr(y, "toarray") else y, bool)
        elif len(classes) > 2 or not self._two_classes_share:
            out_activation, columns = "softmax", y[:, None] == classes
        else:
            columns = y[:, None] == classes[1:] if len(classes) == 2 else np.zeros((len(y), 1), bool)
        return dense_if_small(X), columns, factor, out_activation

    def _checked(self, X, y, *, incremental, reset):
        """X and labels y, checked by scikit-learn; sets or checks classes_."""
        X, y = self._validated(X, y, multi_output=True, dtype=self._dtypes, order="C", reset=reset)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if y.ndim == 2 and not type_of_target(y).startswith("multilabel"):
            raise value_error("y", "labels (rows,), or columns of 0 and 1", f"{shown(y)} of other labels")
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self.classes_ = unique_labels(y)
        else:
            self._check_classes(unique_labels(y))
        return X, y

    def _are_all(self, classes):
        """Whether these are all the classes."""
        known, is_like = self.classes_, type(classes) is np.ndarray and classes.dtype == self.classes_.dtype
        return (is_like and np.array_equal(classes, known)) or np.array_equal(unique_labels(classes), known)

    def _are_known(self, y, rows):
        """Whether y is proven to be labels of this many rows that the network has outputs for."""
        classes = self.classes_
        if self.out_activation_ == "logistic" and self.n_outputs_ > 1:
            return len(classes) == self.n_outputs_ and are_flags(y, rows, self.n_outputs_)
        return are_labels(y, rows, classes)

    def _factor(self, y):
        """The weight of each row according to class_weight, (rows,), or None."""
        weights = self.class_weight
        if isinstance(weights, dict):
            for label, weight in weights.items():
                check_number(f"class_weight[{label!r}]", weight, 0.0)
            if y.ndim == 1:  # labels that are missing here may come in another call of partial_fit
                return np.array([float(weights.get(label, 1.0)) for label in y.tolist()])
        return None if weights is None else compute_sample_weight(weights, y)

    def _check_classes(self, classes):
        if self.warm_start and set(classes) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {classes}"
            )
        strange = np.setdiff1d(classes, self.classes_)
        if len(strange):
            raise value_error("y", f"labels of {self.classes_}", strange)

    def _targets(self, columns, dtype):
        return columns.argmax(axis=1) if self.out_activation_ == "softmax" else columns.astype(dtype)

    def _score(self, network, X, columns, sample_weight):
        """Accuracy on held-out rows."""
        found = predict(network, X)
        if self.out_activation_ == "softmax":
            hit = found.argmax(axis=1) == columns.argmax(axis=1)
        else:
            hit = ((found > 0.5) == columns).all(axis=1)
        return float(np.average(hit, weights=sample_weight)) if np.isfinite(found).all() else math.nan

    def predict(self, X: "Rows") -> "npt.NDArray[Any]":
        """Labels of the rows of X; (rows, labels) of 0 and 1 for multi-label."""
        return self._predictions(X, self._labels)

    def _labels(self, found):
        """The labels that predictions mean."""
        if self.out_activation_ == "softmax":
            return self.classes_[found.argmax(axis=1)]
        if self.n_outputs_ > 1:
            return (found > 0.5).astype(int)
        return self.classes_[np.minimum(found[:, 0] > 0.5, len(self.classes_) - 1)]  # there may be one class only

    def predict_proba(self, X: "Rows") -> "Array":
        """Probabilities of the classes, (rows, classes), in the order of `classes_`; of each label for multi-label."""
        return self._predictions(X, lambda found: np.hstack([1 - found, found]) if self.n_outputs_ == 1 else found)

    def predict_log_proba(self, X: "Rows") -> "Array":
        """Logarithms of `predict_proba`."""
        logarithms: Array = np.log(self.predict_proba(X))
        return logarithms

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPClassifier(Classifier):
    """scikit-learn's multi-layer perceptron classifier, trained by fastgd: for two or more classes, or multi-label.

    It takes the arguments of sklearn.neural_network.MLPClassifier, with these extensions:

    activation: also the name of an activation of fastgd ("gelu", ...), an `Activation`, or a list with one for each
        hidden layer.
    solver: also the name of an optimizer of fastgd ("AdamW", "Lion", ...), which uses learning_rate_init, or an
        optimizer with its own options, of which each fit makes a copy.
    dropout: fraction of the outputs of a hidden layer that training drops, in [0, 1): a number, or a list with one for
        each hidden layer. Not with "lbfgs".
    class_weight: {label: weight}, or "balanced" for rows / (classes x rows of the class), as elsewhere in scikit-learn.
        It multiplies sample_weight in training, not in validation.

    Fitted attributes are scikit-learn's: classes_, loss_, best_loss_, loss_curve_, validation_scores_,
    best_validation_score_, t_, coefs_, intercepts_, n_features_in_, feature_names_in_, n_iter_, n_layers_, n_outputs_,
    out_activation_. If you set coefs_ or intercepts_, or change them in place, predictions use that. partial_fit
    changes them in place; each fit makes new ones.

    What differs: momentum must be below 1, and sample weights at least 0. Divergence ends a run at once. A fit that
    raises leaves the estimator unchanged. Multi-label predictions are dense. Training is in float32 if X is float32,
    else in float64 ("lbfgs": always float64). A sparse X is converted to a dense array, a part of the rows at a time if
    that would take more than 64 MB ("lbfgs": all rows at once).
    Threads may share an estimator: predictions wait while another thread fits. Functions that fit calls must not use
    the estimator, which is then only partly fitted; its methods raise RuntimeError.
    """

    loss = "log_loss"  # not an argument, but an attribute that scikit-learn has

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float | Sequence[float] = 0.0,
        class_weight: dict[Any, float] | str | None = None,
    ) -> None:
        keep_arguments(self, locals())


class MLPRegressor(RegressorMixin, Perceptron):
    """scikit-learn's multi-layer perceptron regressor, trained by fastgd, for one output or more.

    It takes the arguments of sklearn.neural_network.MLPRegressor. The extensions of activation and solver, dropout,
    and the differences are as in `MLPClassifier`.

    Fitted attributes are scikit-learn's: loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_,
    t_, coefs_, intercepts_, n_features_in_, feature_names_in_, n_iter_, n_layers_, n_outputs_, out_activation_.
    """

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float | Sequence[float] = 0.0,
    ) -> None:
        keep_arguments(self, locals())

    def fit(self, X: "Rows", y: "npt.ArrayLike", sample_weight: "npt.ArrayLike | None" = None) -> Self:
        """Trains on X (rows, features), an array or a sparse matrix, and numbers y (rows,) or (rows, outputs). Returns
        self."""
        with self._unchanged_by_errors() as undo:
            self._fit(X, y, sample_weight, undo)
        return self

    @_if_stochastic
    def partial_fit(self, X: "Rows", y: "npt.ArrayLike", sample_weight: "npt.ArrayLike | None" = None) -> Self:
        """Trains for one more epoch, from where the last call left off."""
        with self._unchanged_by_errors() as undo:
            self._fit(X, y, sample_weight, undo, incremental=True)
        return self

    def _encoded(self, X, y, *, incremental, reset):
        """Returns X, y as columns, None for the class weights, and the output activation."""
        out_activation = choose("loss", self.loss, {"squared_error": "identity", "poisson": "exp"})
        checked = None if reset else self._finite_rows(X)
        if checked is not None and are_numbers(y, len(checked), self.n_outputs_):
            X = checked
        else:
            X, y = self._validated(
                X, y, multi_output=True, y_numeric=True, dtype=(np.float64, np.float32), order="C", reset=reset
            )
            if y.ndim == 2 and y.shape[1] == 1:
                y = column_or_1d(y, warn=True)
        return dense_if_small(X), y.reshape(len(y), -1), None, out_activation

    def _targets(self, columns, dtype):
        return columns

    def _score(self, network, X, columns, sample_weight):
        """R^2 on held-out rows."""
        found = predict(network, X)
        with np.errstate(all="ignore"):  # the run may be about to diverge
            return (
                float(r2_score(columns, found, sample_weight=sample_weight)) if np.isfinite(found).all() else math.nan
            )

    def predict(self, X: "Rows") -> "Array":
        """Numbers for the rows of X, (rows,) or (rows, outputs)."""
        return self._predictions(X, lambda found: found.ravel() if found.shape[1] == 1 else found)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def keep_arguments(estimator: Any, arguments: dict[str, Any]) -> None:
    """Sets the arguments of a constructor, its local variables, as attributes."""
    vars(estimator).update({name: value for name, value in arguments.items() if name not in ("self", "__class__")})
