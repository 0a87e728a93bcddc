"""Networks by name: sizes of their papers, options, training, files."""

import numpy as np
import pytest

import fastgd
from fastgd import models

SIZES = {"lenet5": 44_426, "small_cnn": 468_010, "resnet20": 272_474}


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_parameters(name):
    net = getattr(models, name)()
    assert net.parameters.size == SIZES[name]
    assert net.output_shape == (10,)


def test_every_model_is_tested():
    assert {*SIZES, "mlp", "from_torch"} == set(models.__all__)


@pytest.mark.parametrize("name", [*SIZES, "mlp"])
def test_options_and_training(name, tmp_path, rng):
    shape, options = (28, 28, 3), {"l2": 1e-4, "seed": 5, "num_threads": 1}
    arguments = (shape, 3)
    net = getattr(models, name)(*arguments, **options)
    assert (net.input_shape, net.output_shape, net.l2, net.num_threads) == (shape, (3,), 1e-4, 1)
    x, y = rng.normal(size=(20, *shape)).astype(np.float32), rng.integers(0, 3, 20)
    history = net.fit(x, y, optimizer=fastgd.Adam(1e-3), epochs=6, batch_size=20)
    assert history.loss[-1] < history.loss[0]
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(fastgd.load(tmp_path / "net.safetensors")[0].predict(x), net.predict(x))


def test_mlp_takes_vectors_and_images():
    assert repr(models.mlp(4, 2, (5,), "tanh").layers) == "(Dense(5, tanh()), Dense(2, identity()))"
    assert models.mlp((3, 4), 2, (5,)).parameters.size == 5 * 13 + 2 * 6


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="classes"):
        models.resnet20(classes=0)
    with pytest.raises(ValueError, match="images"):
        models.lenet5(784)
