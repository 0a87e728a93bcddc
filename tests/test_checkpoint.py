"""Saving and loading."""

import dataclasses
import os

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


def test_saved_before_the_first_update(tmp_path, small):
    _, x, y = small
    rich_network().save(tmp_path / "m", optimizer=fastgd.Adam(1e-3))
    network, optimizer = fastgd.load(tmp_path / "m")
    twin, twin_optimizer = rich_network(), fastgd.Adam(1e-3)
    for n, o in ((network, optimizer), (twin, twin_optimizer)):
        n.fit(x, y, optimizer=o, epochs=2)
    np.testing.assert_array_equal(network.parameters, twin.parameters)


def test_numpy_scalars_are_saved(tmp_path):
    activation = fastgd.activations.leaky_relu(negative_slope=np.float32(0.25))
    Network(5, [Dense(3, activation)], loss="mse").save(tmp_path / "m")
    assert fastgd.load(tmp_path / "m")[0].layers[0].activation == activation


def test_what_load_would_refuse_is_not_saved(tmp_path, small):
    _, x, y = small
    other, optimizer = rich_network(), fastgd.Adam()
    other.train_step(x, y, optimizer)
    strange = dataclasses.replace(fastgd.activations.relu, name="mine")
    for network, options, match in (
        (rich_network(), {"optimizer": optimizer}, "'optimizer'.*drives another"),
        (rich_network(), {"optimizer": 5}, "'optimizer'.*5"),
        (Network(5, [Dense(3, strange)], loss="mse"), {}, "'activation'.*mine"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            network.save(tmp_path / "m", **options)
    with pytest.raises(TypeError, match="'path'.*None"):
        rich_network().save(None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_keeps_its_mode_and_its_link(tmp_path):
    target, link = tmp_path / "model", tmp_path / "link"
    rich_network().save(target)
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask
    target.chmod(0o640)
    link.symlink_to(target)
    rich_network().save(link)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "model"]
    with pytest.raises(OSError, match="folder"):
        fastgd.load(tmp_path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    rich_network().save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(fastgd.checkpoint.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        rich_network().save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


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
        (lambda t: {"fastgd": "[" * 100_000}, "load"),
        (lambda t: {"fastgd": '{"format": 1, "network": 3}'}, "load"),
        (lambda t: {"fastgd": '{"format": 1, "network": {"layers": [], "loss": []}}'}, "load"),
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


def test_an_optimizer_of_ones_own_class_is_not_saved(tmp_path):
    class Mine(fastgd.Adam):
        pass

    network = fastgd.Network(3, [fastgd.Dense(2)], loss="mse")
    with pytest.raises(ValueError, match="'optimizer'.*own to save.*Mine"):
        network.save(tmp_path / "net.safetensors", optimizer=Mine())
    assert not list(tmp_path.iterdir())
