"""Names that users type: in any case, of torch, Keras and scikit-learn; and what is not clear is an error that names
what may be meant."""

import inspect

import numpy as np
import pytest

from fastgd import Adam, Dense, Network, custom, plots, sweep
from fastgd.activations import ACTIVATIONS
from fastgd.core.aliases import ALIASES, column, named
from fastgd.initializers import INITIALIZERS
from fastgd.losses import LOSSES
from fastgd.metrics import METRICS
from fastgd.optimizers import OPTIMIZERS

TABLES = {
    "Activation": ACTIVATIONS, "Initializer": INITIALIZERS, "Loss": LOSSES, "Metric": METRICS, "Optimizer": OPTIMIZERS,
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_aliases_mean_what_the_package_has(kind):
    """Every alias leads to entries, none hides one, and the spelling of a name does not matter."""
    table = TABLES[kind]
    own = {name.lower().replace("_", ""): name for name in table}
    assert len(own) == len(table)
    for alias, names in ALIASES[kind].items():
        assert alias not in own
        assert alias == alias.lower().replace("_", "").replace("-", "")
        assert all(name in table for name in ([names] if isinstance(names, str) else names))
    for name, entry in table.items():
        for spelling in (name, name.upper(), name.replace("_", "-"), name.title().replace("_", "")):
            assert named("x", spelling, table, kind) is entry
    assert set(ALIASES) == set(TABLES)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("Activation", "swish", "silu"),
        ("Activation", "SiLU", "silu"),
        ("Activation", "LeakyReLU", "leaky_relu"),
        ("Loss", "cross_entropy", "softmax_cross_entropy"),
        ("Loss", "CrossEntropyLoss", "softmax_cross_entropy"),
        ("Loss", "MSE", "mse"),
        ("Loss", "MSELoss", "mse"),
        ("Loss", "BCEWithLogitsLoss", "binary_cross_entropy"),
        ("Loss", "binary_crossentropy", "binary_cross_entropy"),
        ("Loss", "GaussianNLLLoss", "gaussian_nll"),
        ("Optimizer", "adamw", "AdamW"),
        ("Optimizer", "rmsprop", "RMSProp"),
        ("Metric", "roc_auc", "auc"),
    ],
)
def test_some_of_them(kind, name, expected):
    assert named("x", name, TABLES[kind], kind) is TABLES[kind][expected]


@pytest.mark.parametrize(
    ("kind", "name", "match"),
    [
        ("Loss", "nll", "'softmax_cross_entropy', 'gaussian_nll', got 'nll'"),
        ("Loss", "log_loss", "'softmax_cross_entropy', 'binary_cross_entropy', got"),
        ("Loss", "crossentrpy", "did you mean 'softmax_cross_entropy'"),
        ("Activation", "swich", "did you mean 'silu'"),
        ("Optimizer", "Adma", "did you mean 'Ada"),
        ("Metric", "acuracy", "did you mean 'accuracy'"),
        ("Loss", "squared_hinge", "did you mean 'hinge'"),
        ("Loss", "log_cosh", "got 'log_cosh'$"),
        ("Activation", "relu6", "did you mean 'relu'"),
    ],
)
def test_what_is_not_clear_is_an_error(kind, name, match):
    with pytest.raises(ValueError, match=f"'x'.*{match}"):
        named("x", name, TABLES[kind], kind)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val_loss", "validation_loss"), ("VAL_LOSS", "validation_loss"), ("Loss", "loss"), ("x", "x"), (3, 3),
        ("val_acc", "validation_accuracy"), ("validation_Accuracy", "validation_accuracy"),
        ("val_mine", "validation_Mine"), ("mine", "mine"),
    ],
)  # fmt: skip
def test_columns_of_a_history(name, expected):
    known = ["loss", "validation_loss", "validation_accuracy", "validation_Mine"]
    assert column(name, known) == expected


def test_columns_of_pictures_and_sweeps(data):
    (X, y), _ = data
    net = Network(64, [Dense(10)], loss="cross_entropy")
    options = {"validation_fraction": 0.2, "metrics": "acc", "epochs": 1}
    history = net.fit(X, y, **options)
    for known in ("val_acc", "validation_accuracy"):
        assert plots.compare({"a": history}, known).axes[0].get_ylabel() == "validation accuracy"
    found = sweep(net, X, y, {"learning_rate": [1e-3, 1e-2]}, **options)
    assert found.best("val_acc") == found.best("validation_accuracy")
    for wrong, match in (("val_recall", "'column'.*got 'val_recall'"), (3, "'column'.*3")):
        with pytest.raises((TypeError, ValueError), match=match):
            found.best(wrong)


@pytest.mark.usefixtures("own_definitions")
def test_a_name_of_the_user_goes_first():
    @custom.activation(derivative=lambda x: 3.0)
    def swish(x):
        return 3.0 * x

    assert Dense(3, "swish").activation is swish
    assert Dense(3, "Swish").activation is swish


def test_a_network_by_such_names(data):
    (X, y), _ = data
    net = Network(64, [Dense(8, "Swish"), Dense(10)], loss="CrossEntropy")
    twin = Network(64, [Dense(8, "silu"), Dense(10)], loss="softmax_cross_entropy")
    assert net.fit(X, y, optimizer="adam", epochs=1).loss == twin.fit(X, y, optimizer="Adam", epochs=1).loss
    assert repr(net) == repr(twin)
    assert net.config() == twin.config()  # files have the package's names
    for loss in ("cross_entropy", "kl_div"):
        with pytest.raises(ValueError, match="'layers'.*at least 2 outputs"):
            Network(64, [Dense(1)], loss=loss)
    with pytest.raises(ValueError, match="'layers'.*binary_cross_entropy"):
        Network(64, [Dense(1)], loss="cross_entropy")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lr_is_the_learning_rate(name):
    make = OPTIMIZERS[name]
    assert repr(make(lr=0.25)) == repr(make(0.25)) == repr(make(learning_rate=0.25))
    assert "lr" not in inspect.signature(make).parameters
    for call in (lambda: make(0.1, lr=0.1), lambda: make(learning_rate=0.1, lr=0.1)):
        with pytest.raises(TypeError, match="'lr'"):
            call()
    with pytest.raises(ValueError, match="'learning_rate'.*-1"):
        make(lr=-1)
    with pytest.raises(TypeError, match="learning_rate.*got rate"):
        make(rate=0.1)


@pytest.mark.usefixtures("own_definitions")
def test_lr_of_rules_of_the_user():
    @custom.optimizer
    def plain(p, g, lr=0.5):
        return p - lr * g

    p = np.ones(3, np.float32)
    plain(lr=0.25).step(p, np.ones(3, np.float32), backend="numpy")
    np.testing.assert_array_equal(p, 0.75)

    class Own(Adam):
        def __init__(self, learning_rate=0.1, *, lr=7.0):
            super().__init__(learning_rate)
            self.own = lr

    made = Own(0.2, lr=3.0)
    assert (made.learning_rate, made.own) == (0.2, 3.0)
