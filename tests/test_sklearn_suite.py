"""scikit-learn's own tests of its perceptrons, run on fastgd's: a fresh copy of its module, with our classes."""

import importlib.util
import inspect

import pytest

import fastgd.sklearn

# Tests left out, and why; all others must pass.
LEFT_OUT = {"test_gradient": "calls the private method _loss_grad_lbfgs"}


def load_anew(name):
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_our_classes(value, ours):
    """A parameter of a test, or a tuple or list of them, with our classes in place of scikit-learn's."""
    if isinstance(value, (list, tuple)):
        return type(value)(with_our_classes(one, ours) for one in value)
    return ours.get(value, value) if inspect.isclass(value) else value


suite = load_anew("sklearn.neural_network.tests.test_mlp")
OURS = {getattr(suite, name): getattr(fastgd.sklearn, name) for name in ("MLPClassifier", "MLPRegressor")}
for theirs, our in OURS.items():
    setattr(suite, theirs.__name__, our)
TESTS = {name: test for name, test in vars(suite).items() if name.startswith("test_")}
for test in TESTS.values():
    marks = []
    for mark in getattr(test, "pytestmark", []):
        arguments = mark.args
        if mark.name == "parametrize":
            arguments = mark.args[0], with_our_classes(mark.args[1], OURS), *mark.args[2:]
        marks.append(getattr(pytest.mark, mark.name)(*arguments, **mark.kwargs).mark)
    test.pytestmark = marks
globals().update({name: test for name, test in TESTS.items() if name not in LEFT_OUT})


@pytest.fixture(params=[42])
def global_random_seed(request):
    return request.param


def test_the_suite_is_whole_and_runs_on_our_classes():
    assert set(LEFT_OUT) < set(TESTS)
    assert len(TESTS) - len(LEFT_OUT) >= 40
    for our in OURS.values():
        assert vars(suite)[our.__name__] is our
        assert our.__module__ == "fastgd.sklearn"
    used = [mark.args[1] for test in TESTS.values() for mark in test.pytestmark if mark.name == "parametrize"]
    assert not any(theirs in list(values) for values in used for theirs in OURS if isinstance(values, list))
