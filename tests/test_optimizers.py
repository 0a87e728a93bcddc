"""Optimizers alone and in training: convergence, state, checks. test_golden.py checks the formulas."""

import array
import inspect
import threading
import typing

import numpy as np
import pytest
from cases import OPTIMIZERS, definitions

import fastgd
from fastgd import SGD, AdaGrad, Adam, AdamW, RMSProp
from fastgd.core.kernel import In, InOut, kernel, kernels
from fastgd.optimizers.base import COMMON, Optimizer, Options, optimizers_of_minibatches
from fastgd.optimizers.base import optimizer as entered

RATES = dict.fromkeys(OPTIMIZERS, 0.05) | {
    "SGD": 0.1, "momentum": 0.02, "Nesterov": 0.02, "AdaGrad": 0.5, "AdaDelta": 20.0, "RMSProp": 0.01,
    "RMSProp momentum": 0.002, "RMSProp centred": 0.002, "RAdam": 0.01, "Lion": 0.01,
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_finds_the_bottom_of_a_parabola(name, dtype):
    p, centre = np.zeros(3, dtype), np.array([1.0, -2.0, 0.5], dtype)
    optimizer = OPTIMIZERS[name](RATES[name])
    if name == "AdamW":
        optimizer = AdamW(RATES[name], weight_decay=0.0)
    for _ in range(2000):
        optimizer.step(p, np.array([1.0, 2.0, 4.0], dtype) * (p - centre))
    np.testing.assert_allclose(p, centre, atol=0.02)


class Tensor:
    """An array class that shares its memory by DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack_memory_is_updated_in_place():
    p = np.ones(3, np.float32)
    SGD(0.5).step(Tensor(p), Tensor(np.ones(3, np.float32)))
    np.testing.assert_array_equal(p, np.full(3, 0.5))


class Leaf(Tensor):
    """Like a torch tensor that requires a gradient; its memory may be replaced."""

    def detach(self):
        return self

    def numpy(self):
        return self.array

    def data_ptr(self):
        return self.array.ctypes.data

    @property
    def shape(self):
        return self.array.shape

    def stride(self):
        return self.array.strides


def test_tensors_are_updated_in_place_step_after_step():
    held = [np.ones(3, np.float32), np.ones((2, 2), np.float32)]
    params, optimizer = [Leaf(p) for p in held], SGD(0.5)
    for _ in range(4):
        optimizer.step(params, [Leaf(np.ones_like(p)) for p in held])
    np.testing.assert_array_equal(held[1], np.full((2, 2), -1.0))
    params[0].array = moved = np.zeros(3, np.float32)
    optimizer.step(params, [Leaf(np.ones_like(p)) for p in held])
    np.testing.assert_array_equal(moved, np.full(3, -0.5))
    np.testing.assert_array_equal(held[0], np.full(3, -1.0))
    params[1].array = held[1].T  # as torch's t_() does in place
    with pytest.raises(ValueError, match=r"'params\[1\]'.*C-contiguous"):
        optimizer.step(params, [Leaf(np.ones_like(p)) for p in held])


def test_arrays_that_change_in_place_are_noticed():
    p, optimizer = np.ones(12), SGD(0.1, weight_decay=0.1, decay_biases=False)
    optimizer.step(p, np.zeros(12))
    optimizer.step(p.reshape(3, 4), np.zeros((3, 4)))  # arrays of two dimensions decay
    np.testing.assert_allclose(p, 0.99)
    optimizer.step(p, np.zeros(12))
    np.testing.assert_allclose(p, 0.99)
    p, optimizer = np.ones(1000), Adam(0.1)
    optimizer.step(p, np.ones(1000))
    p.resize(2000, refcheck=False)
    with pytest.raises(ValueError, match="'params'.*first step"):
        optimizer.step(p, np.ones(2000))
    p, optimizer = np.ones(1000), Adam(0.1)
    optimizer.step(p, np.ones(1000))
    with pytest.raises(ValueError, match="'params'.*first step"):
        optimizer.step(p.view(np.float32), np.ones(2000, np.float32))


def test_a_disturbed_optimizer_is_made_ready_once():
    p, optimizer = np.zeros(3), SGD(1.0)
    optimizer.step(p, np.ones(3))
    optimizer.lock.disturbed = True  # as an exception leaves it
    optimizer.step(p, np.ones(3))
    assert not optimizer.lock.disturbed
    np.testing.assert_array_equal(p, -2.0)


def test_every_step_has_the_threads_and_the_backend_asked_for():
    params, optimizer = [np.ones(3), np.ones(2)], SGD(0.5)
    for threads, backend in ((1, "cython"), (1, "numpy"), (1, "cython"), (2, "cython"), (2, "numpy")):
        optimizer.step(params, [np.ones(3), np.ones(2)], num_threads=threads, backend=backend)
    optimizer.step([p.copy() for p in params], [np.ones(3), np.ones(2)])
    np.testing.assert_array_equal(np.concatenate(params), -1.5)
    with pytest.raises(ValueError, match="'num_threads'"):
        optimizer.step(params, [np.ones(3), np.ones(2)], num_threads=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_optimizer_serves_one_caller_at_a_time(threads):
    """A second caller gets an error, and no part of its step is done."""
    p, g, optimizer, made, refused = np.zeros(200_000), np.ones(200_000), SGD(1.0), [], []

    def work():
        for _ in range(100):
            try:
                optimizer.step(p, g, num_threads=threads)
                made.append(1)
            except RuntimeError as error:
                refused.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(made) + len(refused) == 300
    assert optimizer.steps == len(made)
    np.testing.assert_array_equal(p, -float(len(made)))
    assert all("this optimizer is in use" in text for text in refused)


@pytest.mark.parametrize("name", ["Adam", "RMSProp", "AdaDelta", "NAdam", "AMSGrad"])
def test_what_overflows_stays_infinite(name, backend):
    """The square of a huge gradient is infinite in float32; then no later step moves the parameters."""
    p, optimizer = np.ones(20, np.float32), OPTIMIZERS[name](1e-3)
    for _ in range(3):
        optimizer.step(p, np.full(20, 1e30, np.float32), backend=backend)
        optimizer.step(p, np.ones(20, np.float32), backend=backend)
    np.testing.assert_allclose(p, 1.0, atol=1e-2)


def test_a_bad_rate_far_off_fails_when_it_comes(small):
    network, x, y = small
    schedule = fastgd.schedules.piecewise([10], [0.1, 1e39])
    optimizer, alone, p = SGD(schedule), SGD(schedule), np.zeros(3, np.float32)
    for _ in range(10):
        network.train_step(x, y, optimizer)
        alone.step(p, np.ones(3, np.float32))
    before = network.parameters.copy()
    for call in (lambda: network.train_step(x, y, optimizer), lambda: alone.step(p, np.ones(3, np.float32))):
        with pytest.raises(ValueError, match="'learning_rate .of step 11.'.*1e[+]39"):
            call()
    np.testing.assert_array_equal(network.parameters, before)
    assert optimizer.steps == alone.steps == 10


def test_arrays_of_other_classes_are_updated_in_place(tmp_path):
    p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(3,))
    optimizer = SGD(0.5)
    for _ in range(3):
        optimizer.step(p, np.ones(3, np.float32))
    np.testing.assert_array_equal(p, np.full(3, -1.5))


def test_learning_rate_may_be_any_function_of_the_step():
    """It is called once for each step, and not for later ones."""
    p, called = np.zeros(1), []
    optimizer = SGD(lambda step: called.append(step) or 1.0 / (step + 1))
    for _ in range(3):
        optimizer.step(p, np.ones(1))
    assert called == [0, 1, 2]
    assert p[0] == pytest.approx(-(1 + 1 / 2 + 1 / 3))


def test_learning_rate_may_be_set_between_steps():
    p = np.zeros(1)
    optimizer = SGD(1.0)
    optimizer.step(p, np.ones(1))
    optimizer.learning_rate = 0.5
    optimizer.step(p, np.ones(1))
    assert p[0] == -1.5
    with pytest.raises(ValueError, match="'learning_rate'.*-1"):
        optimizer.learning_rate = -1
    assert optimizer.learning_rate == 0.5


@pytest.mark.parametrize("value", ["x", None, -1.0, np.nan])
def test_a_schedule_must_give_a_number(value):
    p = np.zeros(1)
    with pytest.raises((TypeError, ValueError), match="'learning_rate .of step 1.'"):
        SGD(lambda step: value).step(p, np.ones(1))
    assert p[0] == 0


P, G = np.ones(3), np.ones(3)
READ_ONLY = np.ones(3)
READ_ONLY.flags.writeable = False
BAD_STEPS = {
    "count": ([P], [G, G], ValueError, "'grads'.*1 arrays.*2"),
    "size": (P, np.ones(4), ValueError, r"'grads\[0\]'.*\(3,\).*\(4,\)"),
    "shape": (np.ones((2, 3)), np.ones((3, 2)), ValueError, r"'grads\[0\]'.*\(2, 3\).*\(3, 2\)"),
    "a number": (P, 1.5, TypeError, "'grads'.*1.5"),
    "lists of numbers": ([[1.0]], [[1.0]], TypeError, r"'params\[0\]'.*\[1.0\]"),
    "dtype": (P, np.ones(3, np.float32), ValueError, r"'grads\[0\]'.*float64"),
    "integers": (np.ones(3, int), G, TypeError, "'params'.*float32 or float64"),
    "strided": (np.ones(6)[::2], G, ValueError, "'params'.*C-contiguous"),
    "None": ([P], [None], TypeError, r"'grads\[0\]'.*None"),
    "masked": (np.ma.masked_array(np.ones(3), [1, 0, 0]), G, TypeError, "'params'.*MaskedArray"),
    "read-only": (READ_ONLY, G, ValueError, "'params'.*writable"),
    "aliasing": (P, P, ValueError, r"'params\[0\]'.*memory of its own.*grads\[0\]"),
    "twice": ([P, P], [G, np.ones(3)], ValueError, r"'params\[1\]'.*memory of its own.*params\[0\]"),
    "aliasing another": ([P, np.ones(3)], [G, P[:3]], ValueError, "memory of its own"),
}


@pytest.mark.parametrize("case", BAD_STEPS)
def test_bad_step(case):
    p, g, error, match = BAD_STEPS[case]
    optimizer = Adam()
    with pytest.raises(error, match=match):
        optimizer.step(p, g)
    np.testing.assert_array_equal(P, np.ones(3))
    assert optimizer.steps == 0
    assert optimizer.state == {}


def test_state_of_another_shape_is_refused():
    optimizer = Adam()
    optimizer.step(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="'params'.*first step"):
        optimizer.step(np.ones(4), np.ones(4))


def test_an_optimizer_drives_one_network(small):
    network, x, y = small
    other = fastgd.Network(5, network.layers, loss="softmax_cross_entropy", seed=1)
    optimizer = Adam()
    network.train_step(x, y, optimizer)
    before = other.parameters.copy()
    with pytest.raises(ValueError, match="'optimizer'.*drives another"):
        other.train_step(x, y, optimizer)
    np.testing.assert_array_equal(other.parameters, before)


# Values at the ends of their ranges: accepted ones, then refused ones.
FRACTION, POSITIVE, NOT_NEGATIVE = ((0.0, 0.99999), (-1e-9, 1.0)), ((1e-30, 1e30), (0.0,)), ((0.0, 1e30), (-1e-30,))
LIMITS = [
    (SGD, "learning_rate", POSITIVE), (SGD, "momentum", FRACTION), (RMSProp, "alpha", FRACTION),
    (fastgd.AdaDelta, "rho", FRACTION), (Adam, "beta1", FRACTION), (Adam, "beta2", FRACTION),
    (Adam, "eps", ((1e-30, 1e30), (0.0, 9.999e-31))), (SGD, "weight_decay", NOT_NEGATIVE),
    (fastgd.NAdam, "momentum_decay", NOT_NEGATIVE), (AdaGrad, "initial_accumulator", NOT_NEGATIVE),
    (SGD, "clip_value", POSITIVE), (SGD, "clip_norm", POSITIVE), (SGD, "ema_decay", FRACTION),
    (SGD, "accumulate", ((1, 2), (0,))),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name", "values"), LIMITS)
def test_limits_of_hyperparameters(make, name, values):
    for value in values[0]:
        assert getattr(make(**{name: value}), name, value) == value
    for value in values[1]:
        with pytest.raises(ValueError, match=f"'{name}'"):
            make(**{name: value})


NAN = float("nan")
BAD_HYPER = {
    "centred in 8 bits": (lambda: RMSProp(centred=True, state_dtype="8bit"), ValueError, "'state_dtype'.*None.*'8bit'"),
    "lr zero": (lambda: SGD(0.0), ValueError, "'learning_rate'.*0"),
    "lr negative": (lambda: SGD(-0.1), ValueError, "'learning_rate'.*-0.1"),
    "lr nan": (lambda: Adam(NAN), ValueError, "'learning_rate'.*nan"),
    "lr inf": (lambda: Adam(float("inf")), ValueError, "'learning_rate'.*inf"),
    "lr text": (lambda: Adam("fast"), TypeError, "'learning_rate'.*'fast'"),
    "lr bool": (lambda: Adam(True), TypeError, "'learning_rate'"),
    "momentum 1": (lambda: SGD(0.1, momentum=1.0), ValueError, r"'momentum'.*\[0, 1\).*1.0"),
    "nesterov": (lambda: SGD(0.1, nesterov=True), ValueError, "'momentum'"),
    "nesterov type": (lambda: SGD(0.1, momentum=0.9, nesterov=1), TypeError, "'nesterov'"),
    "beta2": (lambda: Adam(beta2=1.0), ValueError, "'beta2'"),
    "a step by a tiny eps": (lambda: Adam(eps=1e-38), ValueError, "'eps'.*1e-38"),
    "eps becomes 0 in float32": (lambda: Adam(eps=1e-50), ValueError, "'eps'.*1e-50"),
    "decay": (lambda: AdamW(weight_decay=-1.0), ValueError, "'weight_decay'"),
    "alpha": (lambda: RMSProp(alpha=NAN), ValueError, "'alpha'.*nan"),
    "accumulator": (lambda: AdaGrad(initial_accumulator=-1), ValueError, "'initial_accumulator'"),
    "schedule": (lambda: fastgd.schedules.cosine(1e-3, total_steps=0), ValueError, "'total_steps'.*0"),
    "schedule rate": (lambda: fastgd.schedules.step(-1.0, every=3), ValueError, "'learning_rate'"),
    "factor": (lambda: fastgd.schedules.exponential(1.0, every=3, factor=2.0), ValueError, "'factor'"),
}


@pytest.mark.parametrize("case", BAD_HYPER)
def test_bad_hyperparameters(case):
    make, error, match = BAD_HYPER[case]
    with pytest.raises(error, match=match):
        make()


def test_a_schedule_that_gives_nan_stops_before_the_update(small):
    network, x, y = small
    before = network.parameters.copy()
    with pytest.raises(ValueError, match=r"learning_rate \(of step 1\).*nan"):
        network.train_step(x, y, SGD(lambda step: NAN))
    np.testing.assert_array_equal(network.parameters, before)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}])
def test_nothing_to_update_is_a_step(options):
    """No arrays, arrays without elements, or only factors of 0."""
    optimizer = Adam(**options)
    optimizer.step([], [])
    assert optimizer.steps == 1
    optimizer = Adam(**options)
    for _ in range(3):
        optimizer.step(np.zeros((0, 3)), np.zeros((0, 3)))
    assert optimizer.steps == 3
    p, optimizer = np.ones(3), Adam(learning_rate_factors={0: 0.0}, **options)
    for _ in range(3):
        optimizer.step(p, np.ones(3))
    assert (p == 1).all()
    net = fastgd.Network(3, [fastgd.Dense(2)], loss="mse")
    before, optimizer = net.parameters.copy(), Adam(learning_rate_factors={"w1": 0, "b1": 0}, **options)
    net.fit(np.ones((4, 3)), np.ones((4, 2)), optimizer=optimizer, epochs=2)
    np.testing.assert_array_equal(net.parameters, before)


def test_a_failed_first_step_leaves_the_optimizer_free(small):
    network, x, y = small
    optimizer = Adam(lambda step: NAN, ema_decay=0.9)
    for call in (lambda: network.train_step(x, y, optimizer), lambda: optimizer.step(np.ones(3), np.ones(3))):
        with pytest.raises(ValueError, match="'learning_rate .of step 1.'.*nan"):
            call()
        assert optimizer.state == {}
    optimizer.learning_rate = 0.1
    other = fastgd.Network(5, network.layers, loss="softmax_cross_entropy", seed=1)
    other.train_step(x, y, optimizer)


def test_the_smallest_eps_divides_by_something():
    p = np.zeros(3, np.float32)
    Adam(1e-3, eps=1e-30).step(p, np.zeros(3, np.float32))
    assert (p == 0).all()


def test_scalars_are_finite_in_the_precision_of_every_array():
    params = [np.ones(3), np.ones(3, np.float32)]
    with pytest.raises(ValueError, match="'learning_rate .of step 1.'.*float32.*1e[+]300"):
        SGD(lambda step: 1e300).step(params, [np.ones(3), np.ones(3, np.float32)])
    assert (params[1] == 1).all()


def test_buffers_are_arrays():
    p = array.array("f", [1.0, 2.0])
    SGD(0.5).step(p, array.array("f", [1.0, 1.0]))
    assert p.tolist() == [0.5, 1.5]


def test_history_counts_updates(small):
    network, x, y = small
    optimizer = Adam(accumulate=3)
    assert network.fit(x, y, optimizer=optimizer, batch_size=1, epochs=2).steps == optimizer.steps == 22 // 3


@pytest.mark.parametrize("beta2", [0.5, 0.6, 0.7])
def test_radam_of_a_short_memory(beta2):
    p, optimizer = np.ones(3), fastgd.RAdam(0.1, beta2=beta2)
    for _ in range(20):
        optimizer.step(p, p.copy())
    assert np.isfinite(p).all()


def test_a_rate_set_each_step_costs_no_table(small):
    """Values prefetched for steps that never come are not prefetched again."""
    network, x, y = small
    optimizer = SGD(0.1)
    for _ in range(50):
        optimizer.learning_rate = 0.1
        network.train_step(x, y, optimizer)
    assert network.executor.plan._ahead == 1


def test_every_hyper_parameter_has_a_range():
    for name, kind in optimizers_of_minibatches().items():
        optimizer = kind(0.1)
        numbers = {key for key, value in optimizer.own_options().items() if not isinstance(value, bool)}
        assert numbers <= set(kind.ranges), name
        assert set(fastgd.optimizers.base.Optimizer.ranges) <= set(kind.ranges), name


def test_a_new_optimizer_declares_the_range_of_its_hyper_parameter_itself():
    class Damped(SGD):
        ranges = SGD.ranges | {"damping": {"low": 0.5, "high": 0.75}}

        def __init__(self, learning_rate=0.1, *, damping=0.5, **options):
            super().__init__(learning_rate, **options)
            self.hyper["damping"] = self.check_hyper("damping", damping)

    assert Damped(damping=0.6).hyper["damping"] == 0.6
    for bad in (0.4, 0.8):
        with pytest.raises(ValueError, match=r"'damping'.*\[0.5, 0.75\], got"):
            Damped(damping=bad)
    with pytest.raises(ValueError, match=r"'momentum'.*\[0, 1\)"):
        Damped(momentum=1.0)


def test_the_table_of_cases_has_every_optimizer():
    assert {type(make(0.1)) for make in OPTIMIZERS.values()} == set(optimizers_of_minibatches().values())


def test_the_decorator_enters_a_class_and_its_rules_with_low_memory_state():
    def rule(name):
        def function(p: InOut("n"), s: InOut("n"), g: In("n"), lr: float, weight_decay: float, shrink: float):
            p -= lr * g

        function.__name__ = name
        return kernel(function)

    with definitions():
        first, second, whole = map(rule, ("first_step", "second_step", "whole_step"))
        whole.whole_state = True

        @entered
        class Single(SGD):
            kernel, rules = first, ()

        @entered
        class Several(SGD):
            rules = second, whole

        table = fastgd.optimizers.OPTIMIZERS
        assert (table["Single"], table["Several"]) == (Single, Several)
        made = {name for name in vars(kernels) if name.startswith(("first_step", "second_step", "whole_step"))}
        low = {f"{name}_step_{dtype}" for name in ("first", "second") for dtype in ("bfloat16", "8bit")}
        assert made == low | {"first_step", "second_step", "whole_step"}


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
def test_a_rule_that_needs_its_whole_state_refuses_fewer_bits(state_dtype):
    def precise_step(p: InOut("n"), s: InOut("n"), g: In("n"), lr: float, weight_decay: float, shrink: float):
        p -= lr * g

    class Precise(Optimizer):
        kernel = None

        def __init__(self, **options):
            super().__init__(0.1, {}, **options)

    with definitions():
        Precise.kernel = kernel(precise_step)
        Precise(state_dtype=state_dtype)
        Precise.kernel.whole_state = True
        with pytest.raises(ValueError, match=f"'state_dtype': expected None.*precise_step.*precision.*'{state_dtype}'"):
            Precise(state_dtype=state_dtype)
        assert Precise().state_dtype is None
    for options in ({}, {"momentum": 0.9}):
        with pytest.raises(ValueError, match=f"'state_dtype': expected None.*rmsprop_centred_step.*'{state_dtype}'"):
            RMSProp(centred=True, state_dtype=state_dtype, **options)
        assert RMSProp(state_dtype=state_dtype, **options).state_dtype == state_dtype
        assert SGD(state_dtype=state_dtype, **options).state_dtype == state_dtype


def test_every_rule_of_the_package_belongs_to_a_class():
    kinds = optimizers_of_minibatches().values()
    rules = {rule.name for kind in kinds for rule in kind.rules or (kind.kernel,)}
    defined = {name: k for name, k in vars(kernels).items() if k.__module__.startswith("fastgd.optimizers.")}
    assert rules == {name for name, k in defined.items() if "shrink" in k.scalars and "seed" not in k.scalars}


def test_the_types_of_the_options_name_all_options():
    parameters = inspect.signature(fastgd.optimizers.Optimizer).parameters.values()
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert keywords == ["decoupled", *COMMON]
    assert list(Options.__annotations__) == ["lr", *keywords]  # lr is learning_rate
    for name, kind in optimizers_of_minibatches().items():
        own, own_options = inspect.signature(kind).parameters, set(kind(0.1).own_options())
        (options,) = typing.get_args(typing.get_type_hints(kind.__init__)["options"])
        assert own_options <= {*own, *options.__annotations__}, name
        assert {*keywords} <= set(options.__annotations__), name


def test_an_unknown_option_is_named_with_the_options_there_are():
    with pytest.raises(TypeError, match=r"'Adam\(\)': expected options learning_rate, beta1, .*clip_norm, .*got rate$"):
        fastgd.Adam(rate=1e-3)
    with pytest.raises(TypeError, match=r"'SGD\(\)': .*nesterov, .*got nestrov; did you mean 'nesterov'\?$"):
        fastgd.SGD(0.1, nestrov=True)
