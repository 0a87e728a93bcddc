"""The command line and the self-check."""

import csv
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastgd
from fastgd.cli import datasets
from fastgd.cli import parser as cli
from fastgd.cli import self_check as selfcheck


def run(*arguments, cwd, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-m", "fastgd", *arguments],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "epochs"), [("cython", 40), *(pytest.param(b, 10, marks=pytest.mark.slow) for b in ("numpy", "numba"))]
)
def test_train_digits(backend, epochs, tmp_path):
    options = [] if epochs == 40 else ["--epochs", str(epochs)]
    done = run("train", "digits", "--backend", backend, "--patience", "0", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split("validation accuracy")[1].split()[0])
    assert accuracy >= 0.97
    assert "training loss" in done.stdout
    assert f"{epochs}/{epochs}" in done.stderr
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    network, optimizer = fastgd.load(tmp_path / "digits.safetensors")
    (X, _), (X_test, y_test) = datasets.digits()
    assert (network.predict(X_test).argmax(axis=1) == y_test).mean() == pytest.approx(accuracy, abs=1e-4)
    assert optimizer.steps == epochs * -(-len(X) // 32)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "digit"], 1, "did you mean 'digits'"),
        (["train", "digits", "--learning-rate", "-1"], 1, "'learning_rate'"),
        (["train", "digits", "--optimizer", "Adma"], 1, "did you mean 'Ada"),
        (["train", "digits", "--hidden", "a"], 2, "--hidden"),
        (["train", "digits", "--dropout", "1.5"], 1, "'--dropout'"),
        (["train"], 2, "DATA"),
        (["tain"], 2, "tain"),
        (["train", "digits", "--save", "no/such/folder/m.safetensors", "--epochs", "0"], 1, "no/such/folder"),
    ],
)
def test_errors_are_one_line(arguments, code, message, tmp_path, monkeypatch, capsys):
    try:
        got, _, error = call(*arguments, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    except SystemExit as end:  # of argparse
        got, error = end.code, capsys.readouterr().err
    assert (got, "Traceback" in error) == (code, False)
    assert message in error
    if code == 1:
        assert error.count("\n") == 1


def test_the_command_has_the_exit_code_of_an_error(tmp_path):
    for arguments, code, message in ((["train", "digit"], 1, "did you mean 'digits'"), (["tain"], 2, "tain")):
        done = run(*arguments, cwd=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert message in done.stderr


HOUSES = "id,age,city,price,kind\n" + "".join(
    f"{i},{20 + i % 50 if i % 11 else ''},{('Oslo', 'Rome', '')[i % 3]},{1000.5 + 10 * (i % 50)},{'ab'[i % 50 > 24]}\n"
    for i in range(400)
)


KIND = ["train", "houses.csv", "--target", "kind", "--drop", "id, price", "--quiet", "--save", "kind.safetensors"]


@pytest.fixture
def houses(tmp_path):
    (tmp_path / "houses.csv").write_text(HOUSES)
    return tmp_path


def call(*arguments, folder, monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, standard output and standard error."""
    monkeypatch.chdir(folder)
    code = cli.main(list(arguments))
    return code, *capsys.readouterr()


def test_from_a_table_to_predictions(houses, monkeypatch, capsys):
    options = {"folder": houses, "monkeypatch": monkeypatch, "capsys": capsys}
    code, out, _ = call(*KIND, "--patience", "30", "--log", "log.jsonl", "--tensorboard", "runs", "--plot", "loss.svg",
                        "--class-weight", "balanced", "--weight-decay", "1e-4", **options)  # fmt: skip
    assert code == 0
    columns = "numbers: age (37 missing); categories: city (2, 133 missing); to be predicted: kind, one of ['a', 'b']"
    assert out.startswith(f"houses.csv: {columns}\n")
    assert float(out.split("validation accuracy")[1].split()[0]) > 0.85
    assert json.loads((houses / "log.jsonl").read_text().splitlines()[0])["epoch"] == 1
    assert list((houses / "runs").iterdir())
    assert "<svg" in (houses / "loss.svg").read_text()
    code, out, _ = call("predict", "kind.safetensors", "houses.csv", "--probabilities", **options)
    rows = list(csv.DictReader(out.splitlines()))
    assert (code, len(rows), list(rows[0])) == (0, 400, ["kind", "probability of a", "probability of b"])
    right = np.mean([row["kind"] == "ab"[i % 50 > 24] for i, row in enumerate(rows)])
    assert right > 0.85
    assert all((float(row["probability of a"]) > 0.5) == (row["kind"] == "a") for row in rows)
    code, out, _ = call("evaluate", "kind.safetensors", "houses.csv", "--json", **options)
    result = json.loads(out)
    assert (code, result["rows"], result["accuracy"]) == (0, 400, pytest.approx(right))
    code, out, _ = call("info", "kind.safetensors", **options)
    for word in ("Dense(128, relu())", "2 classes", "city", "stopped", "updates"):
        assert word in out
    assert code == 0
    code, out, _ = call(
        "predict", "kind.safetensors", "houses.csv", "--output", "out.csv", "--keep", "id,city", **options
    )
    assert (code, out) == (0, "")
    kept = list(csv.DictReader((houses / "out.csv").read_text().splitlines()))
    assert list(kept[0]) == ["id", "city", "kind"]
    without = [",".join(line.split(",")[:3]) for line in HOUSES.splitlines()]
    (houses / "new.csv").write_text("\n".join([f"{without[0]},kind", *(f"{line}," for line in without[1:])]))
    assert call("predict", "kind.safetensors", "new.csv", **options)[0] == 0  # the column to be predicted is empty
    assert [(row["id"], row["city"]) for row in kept] == [(str(i), ("Oslo", "Rome", "")[i % 3]) for i in range(400)]


def test_names_with_control_characters_are_not_printed_as_they_are(tmp_path, monkeypatch, capsys):
    rows = "".join(f"{i % 5},{i % 3},{i}\n" for i in range(20))
    (tmp_path / "c.csv").write_text(f'"a\x1b[31m","b\nc","\x07y"\n{rows}')
    arguments = ["train", "c.csv", "--target", "\x07y", "--task", "regression", "--epochs", "0", "--quiet"]
    code, out, _ = call(*arguments, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert r"numbers: 'a\x1b[31m', 'b\nc'; to be predicted: '\x07y', a number" in out
    assert not {"\x1b", "\x07"} & set(out)


def test_a_model_is_replaced_only_with_overwrite(houses, monkeypatch, capsys):
    options = {"folder": houses, "monkeypatch": monkeypatch, "capsys": capsys}
    assert call(*KIND, "--epochs", "2", "--resume", **options)[1].count("no kind.safetensors yet: a new run") == 1
    before = (houses / "kind.safetensors").read_bytes()
    code, _, err = call(*KIND, "--epochs", "2", **options)
    assert code == 1
    assert re.search("'--save'.*--overwrite.*--resume.*'kind.safetensors'", err)
    code, _, err = call(*KIND, "--epochs", "2", "--resume", "--hidden", "3", **options)
    assert code == 1
    assert "--resume needs the data and the options of the original run; only --epochs may be another" in err
    assert (houses / "kind.safetensors").read_bytes() == before
    code, out, _ = call(*KIND, "--epochs", "2", "--resume", **options)
    assert code == 0
    assert "continuing kind.safetensors, after minibatch 20" in out
    assert call(*KIND, "--epochs", "3", "--overwrite", **options)[0] == 0
    assert fastgd.load(houses / "kind.safetensors")[0].epochs == 3


def test_a_run_goes_on_to_more_epochs(houses, monkeypatch, capsys):
    """Along the schedule of the new number; only if that number is asked for."""
    options = {"folder": houses, "monkeypatch": monkeypatch, "capsys": capsys}
    assert call(*KIND, "--epochs", "2", **options)[0] == 0
    before = fastgd.load(houses / "kind.safetensors")
    code, _, err = call(*KIND, "--resume", **options)
    assert code == 1
    assert "--epochs: give their number, since the run in kind.safetensors was planned for 2" in err
    code, out, err = call(*KIND, "--epochs", "3", "--resume", **options)
    assert code == 0, err
    assert "continuing kind.safetensors, after minibatch 20" in out
    network, optimizer = fastgd.load(houses / "kind.safetensors")
    assert (network.epochs, optimizer.schedule.total_steps) == (3, 30)
    rates, schedule = network.history.learning_rate, optimizer.schedule
    assert rates == [*before[0].history.learning_rate, schedule(29)]
    assert call(*KIND, "--resume", "--epochs", "3", **options)[0] == 0  # nothing left to do
    code, _, err = call(*KIND, "--resume", "--epochs", "2", **options)
    assert code == 1
    assert "'--epochs': expected at least 3, the epochs done in kind.safetensors" in err
    assert fastgd.load(houses / "kind.safetensors")[0].epochs == 3


def test_held_out_rows_teach_nothing(houses, monkeypatch, capsys):
    """Statistics come from the training rows; only the list of categories comes from all rows."""
    options = {"folder": houses, "monkeypatch": monkeypatch, "capsys": capsys}
    rows = [{"x": float(i), "c": "ab"[i % 2], "y": i * 0.5} for i in range(40)]
    _, held_out = fastgd.data.samples.split_rows("", 40, 0.25, 3)
    rows[held_out[0]].update(x=1e6, c="rare", y=-1e6)
    rows[held_out[1]].update(x=None)
    with (houses / "t.csv").open("w") as file:
        writer = csv.DictWriter(file, ["x", "c", "y"])
        writer.writeheader()
        writer.writerows(rows)
    command = ["train", "t.csv", "--target", "y", "--validation", "0.25", "--seed", "3", "--epochs", "1", "--quiet"]
    assert call(*command, **options)[0] == 0
    made = fastgd.load(houses / "t.safetensors")[0].preprocessing
    known = np.array([rows[i]["x"] for i in range(40) if i not in held_out])
    assert made.columns[0].shift == made.columns[0].fill == pytest.approx(known.mean())
    assert made.target.shift == pytest.approx(known.mean() / 2)
    assert made.columns[1].values == ("a", "b", "rare")


def test_held_out_rows_of_arrays_are_not_trained_on(tmp_path, monkeypatch, capsys, rng):
    """Their values do not affect the parameters."""
    options, ends = {"folder": tmp_path, "monkeypatch": monkeypatch, "capsys": capsys}, []
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    for shift in (0, 1e9):
        _, held_out = fastgd.data.samples.split_rows("", 60, 0.2, 0)
        X[held_out] += shift
        np.savez(tmp_path / "a.npz", X=X, y=y)
        assert call("train", "a.npz", "--epochs", "2", "--quiet", "--overwrite", "--dtype", "float64",
                    **options)[0] == 0  # fmt: skip
        network = fastgd.load(tmp_path / "a.safetensors")[0]
        assert network.dtype == "float64"
        ends.append((network.parameters.copy(), network.history.validation_loss))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    assert ends[0][1] != ends[1][1]


def test_delimiters(houses, monkeypatch, capsys):
    options = {"folder": houses, "monkeypatch": monkeypatch, "capsys": capsys}
    (houses / "t.csv").write_text("a;y\n" + "".join(f"{i};{i / 2}\n" for i in range(50)))
    assert "another delimiter" in call("train", "t.csv", "--target", "y", **options)[2]
    command = ["train", "t.csv", "--target", "y", "--delimiter", ";", "--quiet", "--epochs", "3"]
    assert call(*command, **options)[0] == 0
    assert call("evaluate", "t.safetensors", "t.csv", "--delimiter", ";", **options)[0] == 0


def test_training_keeps_the_epoch_with_the_least_validation_loss(houses, monkeypatch, capsys):
    """By default, where there are validation rows."""
    options = {"folder": houses, "monkeypatch": monkeypatch, "capsys": capsys}
    command = "train", "houses.csv", "--target", "price", "--drop", "id,kind", "--quiet", "--overwrite"
    runs = {
        "--learning-rate 0.5 --epochs 400": True,
        "--epochs 30 --patience 0": False,
        "--epochs 30 --validation 0": False,
    }
    for more, stops in runs.items():
        code, out, err = call(*command, *more.split(), **options)
        assert code == 0, err
        network, _ = fastgd.load(houses / "houses.safetensors")
        assert ("kept)" in out) is stops is ("stopped: patience" in out)
        if stops:
            best, losses = network.history.best_epoch, network.history.validation_loss
            assert len(losses) == best + 5 < 400
            assert f"validation loss {min(losses):.4f} (epoch {best}, kept)" in out


def test_numbers_are_predicted_in_their_units(houses, monkeypatch, capsys):
    options = {"folder": houses, "monkeypatch": monkeypatch, "capsys": capsys}
    code, out, _ = call("train", "houses.csv", "--target", "price", "--drop", "id,kind", "--optimizer", "rmsprop",
                        "--patience", "0", "--quiet", "--log", "log.jsonl", **options)  # fmt: skip
    assert code == 0
    last = [line for line in map(json.loads, (houses / "log.jsonl").read_text().splitlines()) if "loss" in line][-1]
    assert f"training loss {last['loss']:.4f}, validation loss {last['validation_loss']:.4f}\n" in out
    assert float(out.split("validation r2")[1].split()[0]) > 0.8
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdout", None)
        assert cli.main(["predict", "houses.safetensors", "houses.csv"]) == 1
        assert cli.main(["predict", "houses.safetensors", "houses.csv", "--output", "out.csv"]) == 0
    assert "--output" in capsys.readouterr().err
    _, out, _ = call("predict", "houses.safetensors", "houses.csv", **options)
    assert out == (houses / "out.csv").read_text()
    predicted = np.array(out.split()[1:], float)
    price = np.array([1000.5 + 10 * (i % 50) for i in range(400)])
    _, out, _ = call("evaluate", "houses.safetensors", "houses.csv", **options)
    result = dict(line.split()[:2] for line in out.splitlines())
    assert float(result["mae"]) == pytest.approx(np.abs(predicted - price).mean(), rel=1e-3)
    assert float(result["rmse"]) == pytest.approx(((predicted - price) ** 2).mean() ** 0.5, rel=1e-3)


def test_arrays(tmp_path, monkeypatch, capsys, data):
    options = {"folder": tmp_path, "monkeypatch": monkeypatch, "capsys": capsys}
    (X, y), _ = data
    np.savez(tmp_path / "images.npz", X=np.rint(X * 16).astype(np.uint8).reshape(-1, 8, 8), labels=y)
    code, out, _ = call("train", "images.npz", "--target", "labels", "--quiet", "--epochs", "15", **options)
    assert code == 0
    assert float(out.split("validation accuracy")[1].split()[0]) > 0.9
    code, out, _ = call("evaluate", "images.safetensors", "images.npz", "--target", "labels", "--json", **options)
    assert json.loads(out)["accuracy"] > 0.9
    code, out, _ = call("predict", "images.safetensors", "images.npz", "--target", "labels", **options)
    assert np.mean(np.array(out.split()[1:], int) == y) > 0.9
    np.savez(tmp_path / "images.npz", X=X, labels=np.where(np.arange(len(y)) == 3, 10, y))
    code, _, error = call("evaluate", "images.safetensors", "images.npz", "--target", "labels", **options)
    assert (code, "column 'labels', row 4: expected labels in [0, 9] as images.safetensors, got 10" in error) == (
        1,
        True,
    )


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_files_of_arrays_run_no_code(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "a.npz", X=np.ones((4, 2)), y=np.array([Harmful(), 1, 2, 3], object))
    code, _, error = call("train", "a.npz", folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, "a.npz" in error) == (1, True)
    assert not (tmp_path / "harm").exists()


def test_find_lr_and_bench(tmp_path, monkeypatch, capsys):
    options = {"folder": tmp_path, "monkeypatch": monkeypatch, "capsys": capsys}
    code, out, _ = call("find-lr", "digits", "--plot", "rates.png", **options)
    assert code == 0
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert 1e-4 < float(out.split("--learning-rate")[1].split()[0]) < 0.1
    assert 20 < len(out.splitlines()) < 50
    code, out, _ = call("bench", "--backend", "cython", **options)
    assert code == 0
    assert "microseconds per step" in out


BAD_COMMANDS = {
    "no target": (["train", "houses.csv"], "'--target'.*'price'"),
    "target": (["train", "houses.csv", "--target", "prise"], "houses.csv, column 'prise'.*did you mean 'price'"),
    "file": (["train", "none.csv", "--target", "y"], "none.csv"),
    "kind of file": (["train", "houses.xlsx", "--target", "y"], "'DATA'.*csv.*houses.xlsx"),
    "fraction": (["train", "houses.csv", "--target", "price", "--validation", "1"], "'--validation'"),
    "model": (["predict", "houses.csv", "houses.csv"], "'houses.csv', field 'file'"),
    "probabilities": (["predict", "n.safetensors", "n.npz", "--probabilities"], "'--probabilities'"),
    "arrays": (["train", "a.npz"], "a.npz: expected an array 'X'"),
    "array": (["train", "n.npz", "--target", "z", "--overwrite"], "n.npz.*'z'.*got"),
    "no zip": (["train", "z.npz"], "z.npz: expected an npz file"),
    "nan": (["train", "nan.npz"], "nan.npz, column 'X', row 3: expected a finite number"),
    "one class": (["train", "one.npz"], "one.npz, column 'y': expected at least 2 classes"),
    "labels": (["train", "labels.npz"], "labels.npz, column 'y', row 2: expected labels.*got -1"),
    "text": (["train", "text.npz"], "text.npz, column 'y': expected an array of 4 rows of numbers"),
    "lengths": (["train", "short.npz"], "short.npz, column 'y': expected an array of 4 rows"),
    "no zip inside": (["train", "zip.npz"], "zip.npz: expected an npz file"),
    "the log": (["train", "houses.csv", "--target", "price", "--log", "houses.csv"], "'--log'.*another file than DATA"),
    "the picture": (["train", "digits", "--save", "a.png", "--plot", "a.png"], "'--plot'.*another file than --save"),
    "rates": (["find-lr", "digits", "--plot", "rates.xyz"], "'--plot'.*ending in one of.*rates.xyz"),
    "rates, the data": (["find-lr", "n.npz", "--plot", "n.npz"], "'--plot'"),
    "the model": (["predict", "p.safetensors", "houses.csv", "--output", "p.safetensors"], "'--output'.*than MODEL"),
    "the data": (["predict", "p.safetensors", "houses.csv", "--output", "houses.csv"], "'--output'.*than DATA"),
    "no name": (["train", "digits", "--save", ""], "'--save'.*a path"),
    "no option": (["train", "digits", "--target", "y"], "'--target'.*no such option for digits"),
    "smoothing": (["train", "houses.csv", "--target", "price", "--label-smoothing", "0.1"], "'--label-smoothing'"),
    "width": (["evaluate", "n.safetensors", "w.npz"], "w.npz, column 'X': expected 2 features as n.safetensors, got 3"),
    "long warm-up": (["train", "digits", "--epochs", "2", "--warmup", "2.5"], r"'--warmup'.*in \[0, 2\], got 2.5"),
    "warm-up before": (["train", "digits", "--warmup", "-1"], r"'--warmup'.*in \[0, 40\], got -1"),
    "no warm-up": (["train", "digits", "--warmup", "nan"], "'--warmup': expected a finite number.*got nan"),
    "overwritten": (["train", "houses.csv", "--target", "price", "--save", "houses.csv"], "'--save'.*a new file"),
    "one row": (["train", "row.csv", "--target", "y"], "'--validation'.*1 rows in all"),
    "binary": (["train", "bin.csv", "--target", "y"], "bin.csv: expected a text file"),
    "no rows": (["train", "none.npz"], "none.npz, column 'X': expected at least 1 row"),
    "no gzip": (["train", "bad.csv.gz", "--target", "y"], "bad.csv.gz: expected a whole .csv.gz file"),
    "picture": (["train", "digits", "--plot", "a.docx"], "'--plot'.*docx"),
    "a table": (["predict", "n.safetensors", "houses.csv"], "'DATA'.*n.safetensors was not trained on a table"),
    "no table": (["evaluate", "p.safetensors", "n.npz"], "'DATA'.*p.safetensors was trained on a table"),
    "digits": (["evaluate", "p.safetensors", "digits"], "'DATA'.*p.safetensors was trained on a table"),
    "kept": (["predict", "p.safetensors", "houses.csv", "--keep", "Id"], "column 'Id'.*--keep.*did you mean 'id'"),
    "kept arrays": (["predict", "n.safetensors", "n.npz", "--keep", "id"], "'--keep'"),
    "a device for a model": (["train", "digits", "--save", os.devnull], "'--save'.*a regular file"),
    "a device for a log": (["train", "digits", "--log", os.devnull], "'--log'.*a regular file"),
    "a device for ONNX": (["export", "n.safetensors", os.devnull], "'FILE'.*a regular file"),
    "resume": (["train", "houses.csv", "--target", "price", "--resume", "--save", "n.safetensors"], "field 'run'"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_data_is_reported_on_one_line(case, houses, monkeypatch, capsys):
    arguments, match = BAD_COMMANDS[case]
    X = np.zeros((4, 2))
    np.savez(houses / "a.npz", a=X, b=X, y=[0, 1, 0, 1])
    np.savez(houses / "n.npz", X=X, y=[0.5, 1, 0, 1])
    np.savez(houses / "one.npz", X=X, y=[1, 1, 1, 1])
    np.savez(houses / "labels.npz", X=X, y=[0, -1, 0, 1])
    np.savez(houses / "text.npz", X=X, y=["a", "b", "a", "b"])
    np.savez(houses / "short.npz", X=X, y=[0, 1, 0])
    np.savez(houses / "w.npz", X=np.zeros((4, 3)), y=np.zeros(4))
    np.savez(houses / "none.npz", X=np.zeros((0, 2)), y=[])
    (houses / "bin.csv").write_bytes(b"a,y\n" * 99 + b"\0\xff,\n\xfe,,")
    (houses / "zip.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    (houses / "row.csv").write_text("a,y\n1,0.5\n")
    (houses / "bad.csv.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    (houses / "z.npz").write_bytes(b"no zip")
    fastgd.Network(2, [fastgd.Dense(1)], loss="mse").save(houses / "n.safetensors")
    table = fastgd.tables.read(houses / "houses.csv")
    made = fastgd.tables.Preprocessing.of(table, "price")
    network = fastgd.Network(made.n_features, [fastgd.Dense(1)], loss=made.loss)
    network.preprocessing = made
    network.save(houses / "p.safetensors")
    X[2, 1] = np.nan
    np.savez(houses / "nan.npz", X=X, y=[0, 1, 0, 1])
    before = sorted(houses.iterdir())
    code, _, err = call(*arguments, folder=houses, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert err.count("\n") == 1
    assert re.search(match, err), err
    assert sorted(houses.iterdir()) == before


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_saves_and_says_so(number, code, word, houses):
    """The file holds the state at the signal; test_resume.py checks that a run resumes from it."""
    words = "train houses.csv --target price --drop id,kind --epochs 2000000 --patience 0 --quiet"
    command = [sys.executable, "-m", "fastgd", *words.split()]
    # A shell makes its background jobs ignore SIGINT, and children inherit that: restore the default.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    catches = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=houses, preexec_fn=catches, **pipes) as process:
        process.stdout.readline()  # the line that describes the network: training is about to begin
        time.sleep(1.0)
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code
    assert re.search(rf"{word}; saved to 'houses.safetensors' after minibatch \d+; .*--resume continues\n", err), err
    steps = int(re.search(r"minibatch (\d+)", err)[1])
    assert 0 < steps == fastgd.load(houses / "houses.safetensors")[1].steps


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in run("--debug", "train", "digit", cwd=tmp_path).stderr


def test_help_has_examples(tmp_path, capsys):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "fastgd train digits" in done.stdout
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "(default: 40; for text: 5)" in shown
    assert not re.search(r"default:\s*(None|False|\))", shown)


def test_self_check_fails_on_a_wrong_body(monkeypatch, capsys, rng):
    def wrong(p, g, lr, weight_decay, shrink):
        p -= lr * g

    assert selfcheck._check_bodies(["cython"], rng) == 0
    kernel = fastgd.kernels.sgd_step
    monkeypatch.setattr(kernel, "body", lambda name: wrong)
    assert selfcheck._check_bodies(["cython"], rng) == 1
    assert "FAIL" in capsys.readouterr().out


def test_self_check_prints_what_it_should(capsys):
    assert selfcheck.run() == 0
    text = capsys.readouterr().out
    for word in ("fastgd", "numpy", "instruction set", "threads", "adam_step", "PASS", "gradient", "microseconds"):
        assert word in text
    assert "FAIL" not in text
    assert "numba" not in text.partition("against the numpy body")[2]


def test_self_check_of_numba(monkeypatch, capsys):
    checked = []
    monkeypatch.setattr(selfcheck, "_check_bodies", lambda bodies, rng: checked.append(bodies) or 0)
    monkeypatch.setattr(selfcheck, "_check_gradients", lambda backends, rng: 0)
    monkeypatch.setattr(selfcheck, "time_steps", lambda backends, rng: None)
    assert cli.main(["selfcheck", "--numba"]) == 0
    monkeypatch.setattr(selfcheck, "BODIES", ("numpy", "cython"))
    assert cli.main(["selfcheck", "--numba"]) == 1
    assert [sorted(bodies) for bodies in checked] == [["cython", "numba"]]
    assert "pip install 'fastgd[numba]'" in capsys.readouterr().err


def test_warm_up(tmp_path, monkeypatch, capsys):
    """The learning rate rises for 1.5 epochs of 12 steps; a resumed run has the same schedule."""
    monkeypatch.chdir(tmp_path)
    train = ["train", "digits", "--epochs", "3", "--batch-size", "120", "--warmup", "1.5", "--quiet", "--plot", ""]
    assert cli.main(train) == 0
    schedule = "cosine(learning_rate=0.002, total_steps=36, warmup_steps=18, final=0.0)"
    assert schedule in capsys.readouterr().out
    assert cli.main([*train, "--resume"]) == 0
    assert cli.main([*train, "--resume", "--warmup", "1"]) == 1


def test_dropout(houses, monkeypatch, capsys):
    options = {"folder": houses, "monkeypatch": monkeypatch, "capsys": capsys}
    assert call(*KIND, "--hidden", "9,5", "--dropout", "0.2", "--epochs", "2", **options)[0] == 0
    layers = fastgd.load(houses / "kind.safetensors")[0].layers
    assert [type(layer).__name__ for layer in layers] == ["Dense", "Dropout", "Dense", "Dropout", "Dense"]
    assert layers[1].rate == 0.2


def test_rows_of_several_axes(tmp_path, rng, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    X, y = rng.normal(size=(20, 3, 2)).astype("f4"), rng.integers(0, 4, (20, 3))
    network = fastgd.Network((3, 2), [fastgd.Dense(4)], loss="softmax_cross_entropy")
    network.save("m")
    np.savez("d.npz", X=X, y=y)
    assert cli.main(["evaluate", "m", "d.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(network.loss(X, y))
    assert cli.main(["predict", "m", "d.npz", "--probabilities", "--output", "p.csv"]) == 0
    header, *rows = csv.reader((tmp_path / "p.csv").read_text().splitlines())
    assert header == [
        *(f"prediction {i}" for i in range(3)),
        *(f"probability of {k} {i}" for i in range(3) for k in range(4)),
    ]
    p = network.predict(X)
    np.testing.assert_array_equal(np.array(rows, float)[:, :3], p.argmax(-1))
    np.testing.assert_allclose(np.array(rows, float)[:, 3:], p.reshape(20, -1), rtol=1e-6)
