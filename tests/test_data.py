"""Minibatches."""

import numpy as np
import pytest

import fastgd
from fastgd.data import epoch_order


def collect(**options):
    X = np.arange(20).reshape(10, 2)
    return list(fastgd.minibatches(X, X[:, 0], **options))


def test_every_row_once_in_a_seeded_order():
    batches = collect(batch_size=4, seed=1)
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    np.testing.assert_array_equal(x[:, 0], y)
    assert sorted(y) == list(range(0, 20, 2))
    same, other = collect(batch_size=4, seed=1), collect(batch_size=4, seed=1, epoch=1)
    np.testing.assert_array_equal(np.concatenate([b for _, b in same]), y)
    assert not np.array_equal(np.concatenate([b for _, b in other]), y)


def test_order_sizes_and_the_last_batch():
    assert [y.tolist() for _, y in collect(batch_size=4, shuffle=False)] == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]
    assert len(collect(batch_size=4, drop_last=True)) == 2
    assert len(collect(batch_size=None)) == 1
    assert len(collect(batch_size=1)) == 10


def test_batches_are_arrays_of_their_own():
    X = np.zeros((4, 2))
    for x, _ in fastgd.minibatches(X, X, batch_size=2, shuffle=False):
        x += 1
    assert X.sum() == 0


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((np.zeros((0, 2)), np.zeros(0), 3), ValueError, "'X'.*at least 1 row"),
        ((np.zeros((4, 2)), np.zeros(3), 3), ValueError, "'y'.*4 rows"),
        ((np.zeros((4, 2)), np.zeros(4), 0), ValueError, "'batch_size'"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, error, match):
    with pytest.raises(error, match=match):
        fastgd.minibatches(*arguments)


def test_orders_are_permutations_that_depend_on_seed_and_epoch():
    orders = np.array([epoch_order(50, seed, epoch, True) for seed in (0, 2**40) for epoch in range(1000)])
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(50), (2000, 1)))
    assert len({tuple(order) for order in orders}) == 2000
    np.testing.assert_array_equal(epoch_order(50, 0, 7, True), orders[7])
    np.testing.assert_array_equal(epoch_order(5, 0, 7, False), np.arange(5))
    # Every row in every place equally often: chi squared of 49 * 49 degrees of freedom, within 5 deviations.
    counts = np.array([np.bincount(column, minlength=50) for column in orders.T])
    assert abs(((counts - 40.0) ** 2 / 40).sum() - 49**2) < 5 * (2 * 49**2) ** 0.5
