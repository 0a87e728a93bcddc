"""Saving and loading."""

import numpy as np
import pytest
from cases import OPTIMIZERS
from safetensors.numpy import load_file, save_file

import fastgd
from fastgd import CheckpointError, Dense, Network


def rich_network():
    return Network(
        5,
        [Dense(8, fastgd.activations.leaky_relu(negative_slope=0.2)), Dense(3, "gelu")],
        loss=fastgd.losses.softmax_cross_entropy(label_smoothing=0.1),
        l2=0.01,
        dtype="float64",
        seed=3,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_never_saved(name, tmp_path, small):
    _, x, y = small
    network = rich_network()
    optimizer = OPTIMIZERS[name](fastgd.schedules.cosine(0.01, total_steps=9, warmup_steps=2))
    network.fit(x, y, optimizer=optimizer, epochs=3)
    network.save(tmp_path / "model.safetensors", optimizer=optimizer)
    loaded, loaded_optimizer = fastgd.load(tmp_path / "model.safetensors")
    assert repr(loaded) == repr(network)
    assert repr(loaded_optimizer.schedule) == repr(optimizer.schedule)
    for n, o in ((network, optimizer), (loaded, loaded_optimizer)):
        n.fit(x, y, optimizer=o, epochs=3)
    np.testing.assert_array_equal(loaded.parameters, network.parameters)


def test_without_an_optimizer(tmp_path):
    network = rich_network()
    network.save(str(tmp_path / "model.safetensors"))
    loaded, optimizer = fastgd.load(str(tmp_path / "model.safetensors"), backend="numpy")
    assert optimizer is None
    assert loaded.backend == "numpy"
    np.testing.assert_array_equal(loaded.parameters, network.parameters)


def test_other_readers_see_the_parameters_by_name(tmp_path):
    network = rich_network()
    network.save(tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    assert sorted(tensors) == ["b1", "b2", "w1", "w2"]
    np.testing.assert_array_equal(tensors["w1"], network.views()["w1"])


def test_a_learning_rate_of_ones_own_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="'optimizer'.*schedule"):
        rich_network().save(tmp_path / "m.safetensors", optimizer=fastgd.SGD(lambda step: 0.1))
    assert list(tmp_path.iterdir()) == []


def damaged(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    rich_network().save(path)
    tensors = load_file(path)
    metadata = damage(tensors)
    if metadata is None:
        with fastgd.checkpoint.safe_open(path, "numpy") as file:
            metadata = file.metadata()
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda t: {}, "saved by fastgd"),
        (lambda t: {"fastgd": "no json"}, "load"),
        (lambda t: {"fastgd": '{"format": 99}'}, "'format'.*1.*99"),
        (lambda t: t.pop("w2") is None or None, "'w2'.*none"),
        (lambda t: t.update(w1=np.zeros((2, 2))), r"'w1'.*\(5, 8\).*\(2, 2\)"),
        (lambda t: t.update(b1=np.zeros(8, np.float32)), "'b1'.*float64.*float32"),
    ],
)
def test_files_that_are_no_models(damage, match, tmp_path):
    with pytest.raises(CheckpointError, match=match):
        fastgd.load(damaged(tmp_path, damage))


def test_truncated_and_missing_files(tmp_path):
    path = tmp_path / "model.safetensors"
    rich_network().save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="safetensors"):
        fastgd.load(path)
    with pytest.raises(FileNotFoundError):
        fastgd.load(tmp_path / "none")
