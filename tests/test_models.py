"""Networks by name: sizes of their papers, options, training, files."""

import tracemalloc

import numpy as np
import pytest

import fastgd
from fastgd import models
from fastgd.engine.plan import Plan

SIZES = {"lenet5": 44_426, "small_cnn": 701_066, "resnet20": 272_474}


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_parameters(name):
    net = getattr(models, name)()
    assert net.parameters.size == SIZES[name]
    assert net.output_shape == (10,)


def test_every_model_is_tested():
    elsewhere = {"from_torch", "gpt", "gpt2", "save_gpt2"}
    assert {*SIZES, "mlp"} | elsewhere == set(models.__all__)


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


@pytest.mark.parametrize(("size", "rows"), [(8, 256), (32, 128), (64, 32), (200, 16)])
def test_images_are_evaluated_in_whole_blocks(size, rows):
    """... of 16, as many as memory allows: a large image alone would cost as much as 16."""
    net = models.resnet20((size, size, 3))
    assert net.executor.evaluation_plan().capacity == rows


def test_mlp_takes_vectors_and_images():
    assert repr(models.mlp(4, 2, (5,), "tanh").layers) == "(Dense(5, tanh()), Dense(2, identity()))"
    assert models.mlp((3, 4), 2, (5,)).parameters.size == 5 * 13 + 2 * 6


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="classes"):
        models.resnet20(classes=0)
    with pytest.raises(ValueError, match="images"):
        models.lenet5(784)


@pytest.mark.parametrize("rows", [1, 17, 48])
@pytest.mark.parametrize("name", [*SIZES, "mlp"])
def test_memory_estimate(name, rows):
    """What the plan allocates, to the byte; and the process no more than the plan's tables besides."""
    net = models.mlp(784, 10) if name == "mlp" else getattr(models, name)()
    estimate = net.memory_estimate(rows)["workspace"]
    tracemalloc.start()
    plan = net.executor.training_plan(rows)
    traced = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    inputs = *plan.own.values(), plan.buffers["index"], plan.buffers["row"]
    vectors = [plan.buffers[name] for name, kind in plan._declared.items() if kind == "a vector"]
    assert estimate == plan.workspace.nbytes + sum(array.nbytes for array in (*inputs, *vectors))
    assert estimate <= traced <= estimate + 2_000_000
    assert net.memory_estimate(rows)["workspace"] == estimate  # by the plan that it has now


def test_memory_of_resnet20():
    """At most 1.3 times the activations that the backward pass needs: the input of each convolution, which the relu
    before it needs, too, and of each normalization. Evaluation keeps none."""
    net, rows = models.resnet20(), 128
    maps = {16: 2 + 3 * 4, 32: 3 * 4 + 1, 64: 3 * 4 + 1}  # of so many channels; two a convolution, one for a shortcut
    needed = 4 * rows * (32 * 32 * 3 + sum(n * channels * (512 // channels) ** 2 for channels, n in maps.items()))
    assert net.memory_estimate(rows)["workspace"] <= 1.3 * needed
    plan = Plan(net, rows, net.loss_function.kernels[0], training=False, backward=False, backend="numpy")
    assert plan.bytes_for(rows) <= 0.25 * needed
