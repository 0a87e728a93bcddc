"""The command line on images: from a folder of pictures to a model, predictions and ONNX."""

import csv
import gzip
import json
import os
import re
import struct

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import fastgd
from fastgd.cli import parser as cli

NAMES = ["Null", "eins", "zwei €"]


@pytest.fixture
def folder(tmp_path, data, monkeypatch):
    """Pictures of the digits 0, 1 and 2, 50 and 15 of each, in the folders train and test."""
    X, y = (np.concatenate(parts) for parts in zip(*data, strict=True))
    for label, name in enumerate(NAMES):
        for i, row in enumerate(X[y == label][:65]):
            path = tmp_path / ("train" if i < 50 else "test") / name / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(row * 255).astype(np.uint8).reshape(8, 8)).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *arguments):
    """Runs the command line; returns exit code, standard output and standard error."""
    capsys.readouterr()
    code = cli.main(list(arguments))
    return code, *capsys.readouterr()


def test_from_a_folder_to_predictions_and_onnx(folder, capsys):
    train = ["train", "train/", "--model", "small_cnn", "--epochs", "3", "--quiet"]
    code, out, _ = call(capsys, *train)
    assert code == 0
    assert out.startswith("train/: 150 images of 8x8 pixels, grey; 3 classes: ['Null', 'eins', 'zwei €']\n")
    assert "120 training rows, 30 validation rows" in out
    code, out, _ = call(capsys, "evaluate", "train.safetensors", "test", "--json")
    result = json.loads(out)
    assert (code, result["rows"]) == (0, 45)
    assert result["accuracy"] > 0.9
    code, out, err = call(capsys, "predict", "train.safetensors", "test", "--probabilities")
    header, *rows = csv.reader(out.splitlines())
    assert header == ["path", "class", *(f"probability of {name}" for name in NAMES)]
    assert [row[0] for row in rows] == [f"test/{name}/{i}.png" for name in NAMES for i in range(50, 65)]
    assert np.mean([row[0].split("/")[1] == row[1] for row in rows]) == result["accuracy"]
    assert all(row[1] == NAMES[np.argmax(np.array(row[2:], float))] for row in rows)
    few = ["test/eins/53.png", "train/Null/02.png", "test/eins/53.png"]
    code, out, err = call(capsys, "predict", "train.safetensors", *few)
    assert (code, err) == (0, "")
    assert [row[0] for row in csv.reader(out.splitlines())] == ["path", *few]
    os.rename("test/eins", "test/new")  # names of folders do not matter to predictions
    _, out, _ = call(capsys, "predict", "train.safetensors", "test")
    assert sorted(row[1] for row in csv.reader(out.splitlines()[1:])) == sorted(row[1] for row in rows)
    os.rename("test/new", "test/eins")
    code, out, _ = call(capsys, "info", "train.safetensors")
    assert "Preprocessing(images, 8x8 pixels, grey; 3 classes)\n  classes: Null, eins, zwei €\n" in out
    assert (
        call(capsys, "export", "train.safetensors", "m.onnx")[1]
        == "ONNX model with inputs ['images'] written to m.onnx\n"
    )
    network = fastgd.load("train.safetensors")[0]
    given = fastgd.images.read("test", like=network.preprocessing).images
    session = onnxruntime.InferenceSession("m.onnx")
    classes, probabilities = session.run(["prediction", "probabilities"], {"images": given})
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == NAMES
    assert classes.tolist() == [row[1] for row in rows]
    np.testing.assert_allclose(probabilities, network.predict(given), rtol=0, atol=2e-6)
    assert call(capsys, *train, "--resume")[0] == 0
    assert call(capsys, *train)[0] == 1


def test_inputs_are_standardized_by_the_training_pictures(folder, capsys):
    assert call(capsys, "train", "train", "--model", "mlp", "--hidden", "5", "--epochs", "0", "--seed", "3")[0] == 0
    network = fastgd.load("train.safetensors")[0]
    assert [repr(layer)[:9] for layer in network.layers[:3]] == ["Standardi", "Flatten()", "Dense(5, "]
    data = fastgd.images.read("train")
    rows, _ = fastgd.data.samples.split_rows("", 150, 0.2, 3)
    expected = fastgd.Standardize.of(data.images[rows])
    assert network.layers[0].config() == expected.config()
    assert network.layers[0].shift.shape == (1,)


def test_augmentation_follows_the_scaling_and_changes_only_training(folder, capsys):
    train = ["train", "train", "--model", "mlp", "--hidden", "5", "--epochs", "1", "--quiet", "--overwrite"]
    fronts, parameters = {}, {}
    for given in ("", "flip", "crop", "Crop:3, flip", "flip,"):
        assert call(capsys, *train, "--augment", given)[0] == 0
        network = fastgd.load("train.safetensors")[0]
        fronts[given] = [repr(layer) for layer in network.layers[1:-3]]
        parameters[given] = network.parameters.tobytes()
    flip, crop = "RandomFlip(horizontal=0.5, vertical=0.0)", "RandomCrop(1)"
    assert fronts == {"": [], "flip": [flip], "crop": [crop], "Crop:3, flip": ["RandomCrop(3)", flip], "flip,": [flip]}
    assert len({*parameters.values()}) == 4
    assert parameters["flip"] == parameters["flip,"]
    plain = network.like(layers=[network.layers[0], *network.layers[2:]])
    plain.state[:] = network.state
    X = fastgd.images.read("test", like=network.preprocessing).images
    np.testing.assert_array_equal(network.predict(X), plain.predict(X))
    assert call(capsys, *train, "--augment", "crop", "--size", "24x33")[0] == 0
    assert repr(fastgd.load("train.safetensors")[0].layers[1]) == "RandomCrop((3, 4))"
    assert call(capsys, "find-lr", "train", "--model", "mlp", "--steps", "20", "--augment", "flip")[0] == 0


@pytest.mark.parametrize("given", ["flop", "crop:0", "crop:-1", "crop:", "crop:x", "crop:1.5", "flip:2", "flip,flip"])
def test_other_augmentations_are_wrong_usage(given, capsys):
    with pytest.raises(SystemExit, match="2"):
        call(capsys, "train", "train", "--model", "mlp", "--augment", given)
    expected = f"argument --augment: expected flip, crop, or crop:N .*, got '{given}'"
    assert re.search(expected, capsys.readouterr().err)


def test_pictures_are_converted_as_in_training(folder, capsys):
    arguments = ["train", "train", "--model", "mlp", "--hidden", "5", "--activation", "tanh", "--size", "6x4"]
    code, out, _ = call(capsys, *arguments, "--epochs", "1", "--class-weight", "balanced", "--validation", "0")
    assert (code, "150 images of 6x4 pixels" in out, "150 of 150 pictures resized to 6x4" in out) == (0, True, True)
    network = fastgd.load("train.safetensors")[0]
    assert network.input_shape == (6, 4, 1)
    assert "tanh" in repr(network.layers[2])
    Image.new("RGBA", (30, 20), (200, 10, 10, 99)).save("a.png")
    code, out, err = call(capsys, "predict", "train.safetensors", "a.png", "--output", "out.csv")
    assert (code, out) == (0, "")
    assert [line.split("pictures ")[1] for line in err.splitlines()] == [
        "resized to 6x4", "coloured, read as grey", "with an alpha channel, put in front of white",
    ]  # fmt: skip
    assert (folder / "out.csv").read_text(encoding="utf-8").startswith("path,class\na.png,")
    os.rename("a.png", b"\xff.png")
    assert call(capsys, "predict", "train.safetensors", os.fsdecode(b"\xff.png"), "--output", "out.csv")[0] == 0
    assert (folder / "out.csv").read_bytes().startswith(b"path,class\n\xff.png,")


def test_idx_files_and_arrays(folder, capsys, data):
    """MNIST's files: training on one part, prediction on the other."""
    for part, (X, y) in zip(("train", "t10k"), data, strict=True):
        X, y = np.rint(X * 16).astype(np.uint8).reshape(-1, 8, 8), y.astype(np.uint8)
        os.makedirs("mnist", exist_ok=True)
        for kind, array in (("images-idx3", X), ("labels-idx1", y)):
            content = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()
            (folder / "mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    np.savez("digits.npz", X=X, labels=y)
    code, out, _ = call(capsys, "train", "mnist", "--model", "mlp", "--epochs", "5", "--quiet")
    assert code == 0
    assert "1,438 images of 8x8 pixels, grey; 10 classes: ['0', '1'," in out
    assert "read from train-images-idx3-ubyte.gz" in out
    results = []
    for path, *options in (["mnist"], ["mnist/t10k-images-idx3-ubyte.gz"], ["digits.npz", "--target", "labels"]):
        code, out, _ = call(capsys, "evaluate", "mnist.safetensors", path, *options, "--json")
        results.append(json.loads(out))
        _, out, _ = call(capsys, "predict", "mnist.safetensors", path, *options)
        assert out.startswith("class\n")
        assert np.mean(np.array(out.split()[1:], int) == y) == pytest.approx(results[-1]["accuracy"])
    assert results[0] == results[1] == results[2]
    assert results[0]["accuracy"] > 0.9
    code, out, _ = call(
        capsys, "train", "digits.npz", "--target", "labels", "--model", "mlp", "--epochs", "1", "--save", "d", "--quiet"
    )
    assert (code, "359 images" in out) == (0, True)
    assert call(capsys, "find-lr", "digits.npz", "--target", "labels", "--model", "mlp", "--steps", "20")[0] == 0


def test_images_that_do_not_fit_into_memory(folder, capsys, monkeypatch):
    """Those to train on and those held out together; known before the first is decoded."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    train = ["train", "train", "--model", "mlp", "--epochs", "0", "--quiet"]
    monkeypatch.setattr(fastgd.images.images, "MOST_MEMORY", 149.5 * 64 / memory)
    with monkeypatch.context() as patch:
        patch.setattr(fastgd.images.images, "decode", None)
        code, _, err = call(capsys, *train)
    assert (code, err.count("\n")) == (1, 1)
    assert re.search(r"expected at most 9,\d+ bytes, .*, got 9,600 for 150 of 8x8x1; .*--size", err)
    assert not os.path.exists("train.safetensors")
    monkeypatch.setattr(fastgd.images.images, "MOST_MEMORY", 150.5 * 64 / memory)
    assert call(capsys, *train)[0] == 0


BAD_COMMANDS = {
    "no model": (["train", "test"], "'--model': expected for images one of mlp, lenet5.*got None"),
    "no such folder": (["train", "tset", "--model", "mlp"], "'DATA'.*'tset', which does not exist"),
    "a table": (["train", "t.csv", "--model", "mlp"], "'DATA': expected for --model a folder.*got 't.csv'"),
    "digits": (["train", "digits", "--model", "mlp"], "'DATA': expected for --model a folder.*got 'digits'"),
    "size of a table": (["train", "t.csv", "--size", "8"], "'--size': expected no such option without --model"),
    "size of digits": (["train", "digits", "--size", "8"], "'--size': expected no such option without --model"),
    "augment a table": (["train", "t.csv", "--augment", "flip"], "'--augment': expected no such option without --m"),
    "augment digits": (["train", "digits", "--augment", "crop"], "'--augment': expected no such option without --mod"),
    "wide crop": (["train", "test", "--model", "mlp", "--augment", "crop:8"], r"'--augment'.*\(8, 8\), got 'crop:8'"),
    "crop of a line": (["train", "test", "--model", "mlp", "--size", "1x9", "--augment", "flip,crop"], "got 'crop'"),
    "hidden": (["train", "test", "--model", "lenet5", "--hidden", "128,64"], "'--hidden'.*for --model lenet5"),
    "activation": (["train", "test", "--model", "resnet20", "--activation", "relu"], "'--activation'.*resnet20"),
    "dropout": (["train", "test", "--model", "mlp", "--dropout", "0"], "'--dropout'.*for --model mlp, got '?0.0"),
    "target": (["train", "test", "--model", "mlp", "--target", "y"], "'--target'.*npz"),
    "drop": (["train", "test", "--model", "mlp", "--drop", "y"], "'--drop'.*no such option for images"),
    "task": (["train", "test", "--model", "mlp", "--task", "regression"], "'--task'.*images"),
    "missing": (["train", "test", "--model", "mlp", "--missing", "median"], "'--missing'.*images"),
    "too small": (["train", "test", "--model", "lenet5"], "images of at least 5 pixels.*; --size resizes the images"),
    "size 0": (["train", "test", "--model", "mlp", "--size", "0"], "'size': expected an integer >= 1"),
    "one class": (["train", "one", "--model", "mlp"], "one: expected at least 2 classes, got only 'a'"),
    "no labels": (["train", "test/Null", "--model", "mlp"], "test/Null: expected images with labels"),
    "bad files": (["train", "bad", "--model", "mlp"], "2 problems: bad/a/1.png.*got an empty file; bad/b: .*got none"),
    "truncated": (["train", "cut", "--model", "mlp"], "2 problems: cut/a/0.png: .*truncated.*cut/b/0.png: .*truncated"),
    "wrong size": (["predict", "m", "large.png"], "large.png: expected 8x8 pixels .* as in training, .*got 20x30"),
    "wrong mode": (["predict", "m", "test/Null/50.png", "deep.png"], "deep.png: expected 8 bits.*mode 'I;16'"),
    "no picture": (["predict", "m", "t.csv"], "t.csv: expected a picture .*got other contents"),
    "nothing": (["predict", "m", "none.png"], "none.png: expected a file that can be read, got No such file"),
    "columns": (["predict", "m", "test", "--keep", "a"], "'--keep': expected columns of a table"),
    "unknown": (["predict", "m", "test", "--unknown", "zeros"], "'--unknown'.*images"),
    "target of pictures": (["evaluate", "m", "test", "--target", "y"], "'--target'.*no such option for images but in"),
    "delimiter": (["evaluate", "m", "test", "--delimiter", ";"], "'--delimiter'.*images"),
    "output": (["predict", "m", "large.png", "deep.png", "--output", "deep.png"], "'--output'.*than DATA"),
    "no label": (["evaluate", "m", "large.png"], "expected 8x8 pixels"),
    "unlabelled": (["evaluate", "m", "test/Null"], "test/Null: expected images with labels"),
    "another class": (["evaluate", "m", "one"], r"one/a: expected one of the classes \['Null', "),
    "not of images": (["predict", "v", "test"], "'DATA': expected no images: v was not trained on images"),
    "several files": (
        ["predict", "v", "a.npz", "b.npz"],
        "'DATA': expected one file, since v was not trained on images",
    ),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_errors_are_one_line(case, folder, capsys):
    arguments, match = BAD_COMMANDS[case]
    for path in ("one/a", "bad/a", "bad/b", "cut/a", "cut/b"):
        os.makedirs(path)
    for path in ("one/a/0.png", "bad/a/0.png", "large.png", "cut/a/0.png", "cut/b/0.png"):
        pixels = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
        Image.fromarray(pixels).save(path)
    for name in "ab":
        (folder / "cut" / name / "0.png").write_bytes((folder / "large.png").read_bytes()[:300])
        Image.fromarray(pixels).save(f"cut/{name}/1.png")
    (folder / "bad" / "a" / "1.png").write_bytes(b"")
    (folder / "t.csv").write_text("a,b\n1,2\n")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save("deep.png")
    network = fastgd.models.mlp((8, 8, 1), 3, (4,))
    network.preprocessing = fastgd.images.Preprocessing(tuple(NAMES), (8, 8), 1, False)
    network.save("m")
    fastgd.models.mlp(4, 3, (4,)).save("v")
    before = sorted(folder.rglob("*"))
    code, _, err = call(capsys, *arguments)
    assert (code, err.count("\n")) == (1, 1), err
    assert re.search(match, err), err
    assert sorted(folder.rglob("*")) == before
