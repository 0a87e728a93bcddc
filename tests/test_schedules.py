"""Schedules at known points, as functions of one step or of an array of steps."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

import fastgd
from fastgd.schedules import SCHEDULES

COSINE = fastgd.schedules.cosine(1.0, total_steps=110, warmup_steps=10, final=0.1)
POINTS = {
    "constant": (fastgd.schedules.constant(0.5), {0: 0.5, 1000: 0.5}),
    "step": (fastgd.schedules.step(1.0, every=10, factor=0.5), {0: 1.0, 9: 1.0, 10: 0.5, 25: 0.25}),
    "exponential": (fastgd.schedules.exponential(1.0, every=10, factor=0.25), {0: 1.0, 5: 0.5, 10: 0.25}),
    "inverse_time": (fastgd.schedules.inverse_time(1.0, rate=0.5), {0: 1.0, 2: 0.5, 6: 0.25}),
    "piecewise": (fastgd.schedules.piecewise([10, 20], [1.0, 0.5, 0.0]), {0: 1.0, 9: 1.0, 10: 0.5, 19: 0.5, 20: 0.0}),
    "polynomial": (
        fastgd.schedules.polynomial(1.0, total_steps=10, power=2.0, final=0.2),
        {0: 1.0, 5: 0.4, 10: 0.2, 50: 0.2},
    ),
    "cosine_restarts": (
        fastgd.schedules.cosine_restarts(1.0, period=10, growth=2.0, final=0.2),
        {0: 1.0, 5: 0.6, 10: 1.0, 20: 0.6, 30: 1.0, 50: 0.6, 70: 1.0},
    ),
    "one_cycle": (
        fastgd.schedules.one_cycle(1.0, total_steps=101, rising=51 / 101, divisor=10.0, final_divisor=100.0),
        {0: 0.1, 25: 0.55, 50: 1.0, 75: 0.5005, 100: 0.001, 500: 0.001},
    ),
    "warmup": (
        fastgd.schedules.warmup(fastgd.schedules.step(1.0, every=10, factor=0.5), steps=4, start=0.2),
        {0: 0.4, 1: 0.6, 3: 1.0, 4: 1.0, 13: 1.0, 14: 0.5},
    ),
    "reduce_on_plateau": (fastgd.schedules.reduce_on_plateau(0.5), {0: 0.5, 1000: 0.5}),
    "polynomial of its defaults": (fastgd.schedules.polynomial(1.0, total_steps=10), {0: 1.0, 2: 0.8, 9: 0.1, 10: 0.0}),
    "cosine_restarts of its defaults": (
        fastgd.schedules.cosine_restarts(1.0, period=10),
        {0: 1.0, 2: (1 + np.cos(np.pi / 5)) / 2, 5: 0.5, 10: 1.0, 15: 0.5},
    ),
    "cosine of one step after another": (
        fastgd.schedules.cosine(1.0, total_steps=3, warmup_steps=3),
        {0: 1 / 3, 1: 2 / 3, 2: 1.0, 3: 1.0, 4: 0.0},
    ),
    "one_cycle without a rise": (
        fastgd.schedules.one_cycle(1.0, 11, rising=0.0),
        {0: 0.97974656782, 10: 4e-6, 11: 4e-6},
    ),
    "warmup of no steps": (fastgd.schedules.warmup(0.5, steps=0), {0: 0.5, 1: 0.5}),
    "cosine": (COSINE, {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 60: 0.55, 110: 0.1, 500: 0.1}),
}


def test_every_schedule_has_points():
    assert {name.partition(" ")[0] for name in POINTS} == set(SCHEDULES)


@pytest.mark.parametrize("name", POINTS)
def test_points(name):
    schedule, points = POINTS[name]
    for step, expected in points.items():
        assert float(schedule(step)) == pytest.approx(expected)
    np.testing.assert_array_equal(schedule(np.arange(200)), [float(schedule(step)) for step in range(200)])


@pytest.mark.parametrize("name", POINTS)
def test_one_step_gives_a_float_and_an_array_an_array(name):
    schedule, points = POINTS[name]
    for step in (*points, *map(np.int64, points)):
        assert isinstance(schedule(step), float)
    steps = np.array(list(points)).reshape(-1, 1)
    rates = schedule(steps)
    assert (rates.dtype, rates.shape) == (np.float64, steps.shape)
    assert isinstance(schedule(np.array(3)), float)


def test_a_schedule_ignores_the_error_state():
    with np.errstate(all="raise"):
        assert fastgd.schedules.exponential(1e-300, every=1, factor=0.1)(20) == pytest.approx(1e-320, rel=1e-3)
        assert fastgd.schedules.step(1.0, every=1)(np.array([0, 10_000])).tolist() == [1.0, 0.0]


def test_a_function_in_a_schedule_gets_integers():
    got = []

    def rate(step):
        got.append(step)
        return 1.0 / (step + 1)

    schedule = fastgd.schedules.warmup(rate, steps=1)
    assert schedule(3) == 1 / 3
    assert schedule(np.arange(4)).tolist() == [1.0, 1.0, 0.5, 1 / 3]
    assert {type(step) for step in got} == {int}


@pytest.mark.parametrize("name", POINTS)
def test_a_schedule_is_written_and_read(name):
    schedule, points = POINTS[name]
    twin = fastgd.schedules.from_config(json.loads(json.dumps(schedule.config())))
    assert twin == schedule
    assert [twin(step) for step in points] == [schedule(step) for step in points]


PEERS = {
    "piecewise": (
        fastgd.schedules.piecewise([3, 8], [1.0, 0.1, 0.01]), lambda o, s: s.MultiStepLR(o, [3, 8], gamma=0.1),
    ),
    "step": (fastgd.schedules.step(1.0, every=3, factor=0.5), lambda o, s: s.StepLR(o, 3, gamma=0.5)),
    "polynomial": (
        fastgd.schedules.polynomial(1.0, total_steps=20, power=1.5), lambda o, s: s.PolynomialLR(o, 20, power=1.5),
    ),
    "cosine": (
        fastgd.schedules.cosine(1.0, total_steps=40, final=0.1), lambda o, s: s.CosineAnnealingLR(o, 40, eta_min=0.1),
    ),
    "cosine_restarts": (
        fastgd.schedules.cosine_restarts(1.0, period=5, growth=2.0, final=0.1),
        lambda o, s: s.CosineAnnealingWarmRestarts(o, 5, T_mult=2, eta_min=0.1),
    ),
    "one_cycle": (fastgd.schedules.one_cycle(1.0, total_steps=40), lambda o, s: s.OneCycleLR(o, 1.0, total_steps=40)),
}  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEERS)
def test_against_torch_itself(name):
    import torch

    schedule, peer = PEERS[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    other, expected = peer(optimizer, torch.optim.lr_scheduler), []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        if len(expected) < 40:
            other.step()
    np.testing.assert_allclose(schedule(np.arange(40)), expected, rtol=1e-9)


def plateau_rates(losses, **options):
    optimizer, rates = fastgd.SGD(fastgd.schedules.reduce_on_plateau(1.0, **options)), []
    p = np.zeros(1)
    for loss in losses:
        before = p[0]
        optimizer.step(p, np.ones(1))
        rates.append(before - p[0])
        optimizer.observe(loss)
    return rates


def test_reduce_on_plateau():
    losses = [5.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 3.0, 3.0]
    expected = [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(plateau_rates(losses, factor=0.5, patience=2, cooldown=2), expected)
    expected = [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    np.testing.assert_allclose(plateau_rates([1.0] * 9, factor=0.5, patience=0, cooldown=2), expected)
    np.testing.assert_allclose(plateau_rates([1.0] * 6, factor=0.1, patience=1, final=0.05), [1, 1, 1, 0.1, 0.1, 0.05])
    # A loss that is not finite is no improvement; the first finite one becomes the best.
    np.testing.assert_allclose(plateau_rates([np.inf, np.nan, 1.0, 2.0], patience=0), [1, 0.1, 0.01, 0.01])


def test_fit_observes_the_loss_each_epoch(small):
    network, x, y = small
    schedule = fastgd.schedules.warmup(fastgd.schedules.reduce_on_plateau(1e-9, patience=1, threshold=0.5), steps=2)
    history = network.fit(x, y, optimizer=fastgd.SGD(schedule), batch_size=3, epochs=8)
    np.testing.assert_allclose(history.learning_rate, [1e-9] * 3 + [1e-10] * 2 + [1e-11] * 2 + [1e-12])


def test_plateau_is_written_and_read(small, tmp_path):
    network, x, y = small
    optimizer = fastgd.SGD(fastgd.schedules.reduce_on_plateau(1e-9, patience=1, threshold=0.5))
    network.fit(x, y, optimizer=optimizer, epochs=5)
    network.save(tmp_path / "net.safetensors", optimizer=optimizer)
    _, twin = fastgd.load(tmp_path / "net.safetensors")
    assert twin.schedule == optimizer.schedule
    assert twin.schedule.scale < 1


# By schedule and field, values at the ends of their ranges: accepted ones, then refused ones.
POSITIVE, NOT_NEGATIVE, PART = ((1e-30,), (0.0,)), ((0.0,), (-1e-30,)), ((0.0, 1.0), (-1e-9, 1.001))
COUNT, COUNT_OR_NONE = ((1,), (0,)), ((0,), (-1,))
LIMITS = {
    "constant": {"learning_rate": POSITIVE},
    "step": {"learning_rate": POSITIVE, "every": COUNT, "factor": ((1e-30, 1.0), (0.0, 1.001))},
    "inverse_time": {"learning_rate": POSITIVE, "rate": NOT_NEGATIVE},
    "polynomial": {"learning_rate": POSITIVE, "total_steps": COUNT, "power": POSITIVE, "final": NOT_NEGATIVE},
    "cosine": {"learning_rate": POSITIVE, "total_steps": COUNT, "warmup_steps": ((0, 1), (-1, 2))},
    "cosine_restarts": {"learning_rate": POSITIVE, "period": COUNT, "growth": ((1.0,), (0.999,))},
    "one_cycle": {
        "peak": POSITIVE, "total_steps": COUNT, "rising": PART, "divisor": ((1.0,), (0.999,)),
        "final_divisor": ((1.0,), (0.999,)),
    },
    "warmup": {"schedule": POSITIVE, "steps": COUNT_OR_NONE, "start": NOT_NEGATIVE},
    "reduce_on_plateau": {
        "learning_rate": POSITIVE, "factor": ((1e-30, 1.0), (0.0, 1.001)), "patience": COUNT_OR_NONE,
        "threshold": NOT_NEGATIVE, "cooldown": COUNT_OR_NONE, "final": NOT_NEGATIVE,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name):
    first = {field: taken[0] for field, (taken, _) in LIMITS[name].items()}
    for field, (taken, refused) in LIMITS[name].items():
        for value in taken:
            SCHEDULES[name](**first | {field: value})
        for value in refused:
            with pytest.raises(ValueError, match=f"'{field}'"):
                SCHEDULES[name](**first | {field: value})


BAD_SCHEDULES = {
    "steps": (lambda s: s.piecewise([3, 3], [1, 2, 3]), ValueError, "'steps'.*ascending"),
    "rates": (lambda s: s.piecewise([3], [1, 2, 3]), ValueError, "'rates'.*2 numbers.*3"),
    "rate": (lambda s: s.piecewise([3], [1, -1]), ValueError, r"'rates\[1\]'.*-1"),
    "a list": (lambda s: s.piecewise(3, [1, -1]), TypeError, "'steps'.*list"),
    "growth": (lambda s: s.cosine_restarts(1.0, period=3, growth=0.5), ValueError, "'growth'.*0.5"),
    "rising": (lambda s: s.one_cycle(1.0, 10, rising=2.0), ValueError, "'rising'.*2"),
    "power": (lambda s: s.polynomial(1.0, 10, power=0.0), ValueError, "'power'"),
    "warmup of a text": (lambda s: s.warmup("cosine", steps=3), TypeError, "'schedule'"),
    "warmup steps": (lambda s: s.warmup(1.0, steps=-1), ValueError, "'steps'.*-1"),
    "patience": (lambda s: s.reduce_on_plateau(1.0, patience=0.5), TypeError, "'patience'"),
}


@pytest.mark.parametrize("case", BAD_SCHEDULES)
def test_bad_schedules(case):
    make, error, match = BAD_SCHEDULES[case]
    with pytest.raises(error, match=match):
        make(fastgd.schedules)


def test_warmup_in_front_of_a_function(small, tmp_path):
    schedule = fastgd.schedules.warmup(lambda step: 1.0 / (step + 1), steps=2)
    np.testing.assert_allclose(schedule(np.arange(5)), [0.5, 1.0, 1.0, 1 / 2, 1 / 3])
    assert float(schedule(4)) == pytest.approx(1 / 3)
    network, x, y = small
    optimizer = fastgd.SGD(schedule)
    network.fit(x, y, optimizer=optimizer, epochs=2)
    with pytest.raises(ValueError, match="'optimizer'.*schedule of fastgd's own to save"):
        network.save(tmp_path / "net.safetensors", optimizer=optimizer)


def test_fit_stays_native_where_no_schedule_observes_the_loss():
    assert not fastgd.schedules.warmup(1e-3, steps=2).observes_loss
    assert fastgd.schedules.warmup(fastgd.schedules.reduce_on_plateau(1e-3), steps=2).observes_loss


def test_training_follows_the_schedule(small):
    network, x, y = small
    schedule = fastgd.schedules.step(0.1, every=4, factor=0.5)
    history = network.fit(x, y, optimizer=fastgd.SGD(schedule), batch_size=3, epochs=3)
    assert history.learning_rate == [float(schedule(4 * epoch - 1)) for epoch in (1, 2, 3)]


def test_every_number_of_a_schedule_has_a_range():
    for name, kind in SCHEDULES.items():
        numbers = {field.name for field in dataclasses.fields(kind) if field.init and field.type is float}
        assert numbers <= set(kind.ranges), name


def test_a_new_schedule_declares_the_ranges_of_its_fields_itself():
    @dataclasses.dataclass(frozen=True)
    class sawtooth(fastgd.schedules.Schedule):
        learning_rate: float
        teeth: "int"
        depth: float = 0.5

        ranges = fastgd.schedules.Schedule.ranges | {"teeth": {"low": 2}, "depth": {"low": 0.0, "high": 0.75}}

    assert sawtooth(0.1, 2, 0.75).depth == 0.75
    bad = {
        (0.0, 2): r"'learning_rate'.*\(0, inf\)",
        (0.1, 1): "'teeth'.*>= 2",
        (0.1, 2, 0.8): r"'depth'.*\[0, 0.75\]",
    }
    for arguments, match in bad.items():
        with pytest.raises(ValueError, match=match):
            sawtooth(*arguments)


def test_fields_are_checked_where_annotations_are_postponed():
    names = {"dataclasses": dataclasses, "Schedule": fastgd.schedules.Schedule}
    exec(
        "from __future__ import annotations\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class late(Schedule):\n"
        "    learning_rate: float\n    steps: int = 3\n    other: OnlyForTypes = None\n",
        names | {"__name__": __name__},
        made := {},
    )
    assert made["late"](1).learning_rate == 1.0
    with pytest.raises(TypeError, match="'steps'"):
        made["late"](0.1, steps=2.5)


def test_a_schedule_that_returns_too_few_rates_is_refused():
    class Wrong(fastgd.schedules.Schedule):
        def learning_rates(self, step):
            return np.full(3, 0.01)

    network = fastgd.Network(2, [fastgd.Dense(1)], loss="mse")
    with pytest.raises(ValueError, match="broadcast"):
        network.fit(np.ones((50, 2)), np.ones(50), optimizer=fastgd.SGD(Wrong()), batch_size=5, epochs=2)
