"""Schedules at known points, and as pure functions of one step or of many."""

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
    "cosine": (COSINE, {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 60: 0.55, 110: 0.1, 500: 0.1}),
}


def test_every_schedule_has_points():
    assert set(POINTS) == set(SCHEDULES)


@pytest.mark.parametrize("name", POINTS)
def test_points(name):
    schedule, points = POINTS[name]
    for step, expected in points.items():
        assert float(schedule(step)) == pytest.approx(expected)
    np.testing.assert_array_equal(schedule(np.arange(200)), [float(schedule(step)) for step in range(200)])


def test_training_follows_the_schedule(small):
    network, x, y = small
    schedule = fastgd.schedules.step(0.1, every=4, factor=0.5)
    history = network.fit(x, y, optimizer=fastgd.SGD(schedule), batch_size=3, epochs=3)
    assert history.learning_rate == [float(schedule(4 * epoch - 1)) for epoch in (1, 2, 3)]
