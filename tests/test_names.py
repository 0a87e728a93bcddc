"""The names that dir() and help() show of public classes and of their objects: golden/names.txt lists them, and each is
documented. A name for the rest of the package, or for subclasses, is listed in the class's `_internal` instead."""

import importlib
import inspect
import pathlib
import pydoc
import re
import types

import numpy as np
import pytest
import sklearn.base
from cases import LAYERS, OPTIMIZERS, definitions

import fastgd
import fastgd.sklearn
from fastgd.core.for_users import ForUsers

TABLE = pathlib.Path(__file__).with_name("golden") / "names.txt"
MODULES = [value for name in dir(fastgd) if isinstance(value := getattr(fastgd, name), types.ModuleType)]
COLUMNS = {"x": [0.5, 1.5, 2.5, 3.5], "c": ["a", "b", "a", "b"], "d": [f"2024-01-0{i} 10:00" for i in (1, 2, 3, 4)]}
SCHEDULES = {
    "constant": (0.1,), "cosine": (0.1, 9), "cosine_restarts": (0.1, 9), "exponential": (0.1, 9),
    "inverse_time": (0.1, 9), "one_cycle": (0.1, 9), "piecewise": ([5], [0.1, 0.01]), "polynomial": (0.1, 9),
    "reduce_on_plateau": (0.1,), "step": (0.1, 9), "warmup": (0.1, 9),
}  # fmt: skip
# Classes whose names another class decides: exceptions, named tuples, scikit-learn's estimators.
OTHERS = (BaseException, tuple, sklearn.base.BaseEstimator)


def classes():
    """The public classes, once each, by the shortest path to them."""
    found = {}
    for module in (fastgd, *MODULES):
        for name in module.__all__:
            if inspect.isclass(value := getattr(module, name)):
                found.setdefault(value, f"{module.__name__}.{name}")
    return found


def halving(p, g, lr):
    """p <- p - lr g / 2."""
    return p - lr * g / 2


def objects_of_training(folder):
    """A network, and what a training run makes and calls."""
    runs, X = [], np.linspace(-1, 1, 8).reshape(8, 1)
    network = fastgd.Network(1, [fastgd.Dense(1)], loss="mse")
    plateau = fastgd.schedules.reduce_on_plateau(0.01)
    history = network.fit(
        X, X, optimizer=fastgd.Adam(plateau), callbacks=[runs.append], epochs=2, validation_data=(X, X)
    )
    yield from (network, history, runs[0], fastgd.sweep(network, X, X, {"l2": [0.0, 0.1]}, epochs=1))
    yield fastgd.find_learning_rate(network.like(), X, X, batch_size=4, steps=10)
    yield fastgd.callbacks.trajectory(network)
    yield fastgd.callbacks.every(2, runs.append)
    yield fastgd.callbacks.json_lines(folder / "log")
    yield fastgd.callbacks.tensorboard(folder)
    with pytest.raises(fastgd.DivergenceError) as raised:
        network.fit(1e20 * X, 1e20 * X)
    yield raised.value
    with pytest.raises(fastgd.CheckpointError) as raised:
        fastgd.load(__file__)
    yield raised.value
    soon = {"tol": 1e9, "n_iter_no_change": 1, "max_iter": 9}
    yield fastgd.sklearn.MLPClassifier(**soon).fit(X, X[:, 0] > 0)
    yield fastgd.sklearn.MLPRegressor(**soon).fit(X, X[:, 0])
    yield fastgd.sklearn.CNNClassifier(**soon).fit(np.zeros((8, 64)), X[:, 0] > 0)


def objects_of_ranks():
    alone = types.SimpleNamespace(rank=0, size=1, Iallreduce=None, Is_inter=bool)
    yield fastgd.distributed.mpi(alone)
    yield fastgd.RankError("rank 1: no answer", 1)


def objects_of_data(folder):
    """What the readers of tables, texts and images return and raise."""
    preprocessing = fastgd.tables.Preprocessing.of({**COLUMNS, "y": [1.0, 2.0, 3.0, 4.0]}, "y", categorical="c")
    yield from (preprocessing, preprocessing.target, *preprocessing.columns)
    with pytest.raises(fastgd.tables.TableError) as raised:
        preprocessing.encode({**COLUMNS, "x": ["?"] * 4})
    yield raised.value
    (folder / "text").write_text("to be or not to be\n")
    text = fastgd.text.read(folder / "text")
    yield from (text, text.vocabulary, text.windows(4), fastgd.text.Bytes())
    (folder / "bytes").write_bytes(b"\xff\xff")
    with pytest.raises(fastgd.text.TextError) as raised:
        fastgd.text.read(folder / "bytes")
    yield raised.value
    tokenizers = importlib.import_module("tokenizers")
    yield fastgd.text.Tokenizer.of(tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [])))
    images = fastgd.images.Images(
        (2, 2, 1), np.arange(2), ("a", "b"), None, False, [], np.zeros((2, 2, 2, 1), np.uint8)
    )
    yield from (images, images.preprocessing, images.minibatches(1))
    problem = fastgd.images.Problem("path", "an image", "nothing")
    yield from (problem, fastgd.images.ImageError([problem]))


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """An object of each public class, and of the classes of objects with a public name, by class."""
    folder = tmp_path_factory.mktemp("names")
    made = [make() for make in LAYERS.values()] + [make(0.1) for make in OPTIMIZERS.values()] + [fastgd.LBFGS()]
    made += [inner for one in made if isinstance(one, fastgd.Sequential) for inner in one.layers]
    made += [fastgd.Embedding(3, 2), *objects_of_training(folder), *objects_of_ranks()]
    made += objects_of_data(folder)
    made += [getattr(fastgd.schedules, name)(*fields) for name, fields in SCHEDULES.items()]
    made += [fastgd.schedules.Schedule(), fastgd.activations.relu, fastgd.losses.mse, fastgd.metrics.r2]
    made += [fastgd.initializers.zeros, fastgd.kernels.dense_forward]
    with definitions():
        made.append(fastgd.custom.optimizer(halving)(0.1))
    return {type(one): one for one in made}


def shown(value):
    """The names that dir() shows of a class or an object: the package's own, without special ones."""
    cls = value if inspect.isclass(value) else type(value)
    home = {name: base.__module__ for base in reversed(cls.__mro__) for name in vars(base)}
    names = [n for n in dir(value) if not n.startswith("__") and home.get(n, "fastgd").startswith("fastgd")]
    return names if issubclass(cls, ForUsers) else [n for n in names if not n.startswith("_")]


def undocumented(value):
    """The shown names without a docstring that are in no docstring of the class and its bases, and no arguments."""
    cls = value if inspect.isclass(value) else type(value)
    texts = [vars(base).get("__doc__") or "" for base in cls.__mro__ if base.__module__.startswith("fastgd")]
    known = {*re.findall(r"\w+", " ".join(texts)), *inspect.signature(cls).parameters}
    return [n for n in shown(value) if n not in known and not inspect.getdoc(inspect.getattr_static(cls, n, None))]


def helped(cls):
    """The names that help() describes, below the docstring of the class."""
    text = pydoc.render_doc(cls, renderer=pydoc.plaintext)
    assert not issubclass(cls, ForUsers) or "__annotations__" not in text
    return set(re.findall(r"^ \|  (\w+)", text.partition("Method resolution order:")[2], re.MULTILINE))


def test_objects_of_all_public_classes(objects):
    assert set(classes()) <= set(objects)


def test_the_names_shown_are_those_for_users(objects):
    paths = classes()
    found = {paths.get(cls, f"{cls.__module__}.{cls.__name__}"): shown(one) for cls, one in objects.items()}
    lines = sorted(f"{path}: {' '.join(names)}".rstrip() for path, names in found.items())
    assert lines == TABLE.read_text().splitlines()
    assert all(set(shown(cls)) <= set(shown(one)) for cls, one in objects.items())


def test_the_names_shown_are_documented(objects):
    assert {cls: names for cls, one in objects.items() if (names := undocumented(one) + undocumented(cls))} == {}


def test_help_shows_the_same_names(objects):
    for cls in objects:
        described = helped(cls)
        assert set(shown(cls)) <= described
        assert not described & getattr(cls, "_internal", set())


def test_public_classes_show_the_names_for_users():
    assert [name for cls, name in classes().items() if not issubclass(cls, (ForUsers, *OTHERS))] == []


def test_names_that_are_hidden_exist(objects):
    """A name in `_internal` that nothing has would be a misspelt or forgotten one."""
    listed = {name for cls in objects for name in getattr(cls, "_internal", ())}
    had = {name for cls, one in objects.items() for name in [*vars(type(one)), *object.__dir__(one)]}
    assert listed <= had


def test_a_new_name_of_the_engine_is_noticed(objects):
    class Dense(fastgd.Dense):
        _internal = fastgd.Dense._internal | {"stages"}

        def stages(self):
            pass

        def slips_in(self):
            pass

        def _own(self):
            pass

    layer = Dense(3)
    assert set(dir(layer)) - set(dir(fastgd.Dense(3))) == {"slips_in"}
    assert set(dir(Dense)) - set(dir(fastgd.Dense)) == {"slips_in"}
    assert "slips_in" in helped(Dense)
    assert {"stages", "forward", "_own"}.isdisjoint(helped(Dense))
    assert layer.stages() is None
