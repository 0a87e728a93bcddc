"""The command line and the self-check, as processes."""

import subprocess
import sys

import numpy as np
import pytest

import fastgd
from fastgd import cli, selfcheck


def run(*arguments, cwd, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-m", "fastgd", *arguments],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False,
    )  # fmt: skip


def test_train_digits(backend, tmp_path):
    done = run("train", "digits", "--backend", backend, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split("test accuracy")[1].split()[0])
    assert accuracy >= 0.97
    assert "training loss" in done.stdout
    assert "40/40" in done.stderr
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    network, optimizer = fastgd.load(tmp_path / "digits.safetensors")
    (X, _), (X_test, y_test) = cli.digits()
    assert (network.predict(X_test).argmax(axis=1) == y_test).mean() == pytest.approx(accuracy, abs=1e-4)
    assert optimizer.steps == 40 * -(-len(X) // 32)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "digit"], 1, "did you mean 'digits'"),
        (["train", "digits", "--learning-rate", "-1"], 1, "'learning_rate'"),
        (["train", "digits", "--optimizer", "Adma"], 1, "did you mean 'Ada"),
        (["train", "digits", "--hidden", "a"], 2, "--hidden"),
        (["train"], 2, "DATA"),
        (["tain"], 2, "tain"),
        (["train", "digits", "--save", "no/such/folder/m.safetensors", "--epochs", "0"], 1, "no/such/folder"),
    ],
)
def test_errors_are_one_line(arguments, code, message, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in run("--debug", "train", "digit", cwd=tmp_path).stderr


def test_help_has_examples(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "fastgd train digits" in done.stdout


def test_self_check_fails_on_a_wrong_body(monkeypatch, capsys, rng):
    def wrong(p, g, lr, weight_decay, shrink):
        p -= lr * g

    assert selfcheck._check_bodies(["cython"], rng) == 0
    kernel = fastgd.kernels.sgd_step
    monkeypatch.setattr(kernel, "body", lambda name: wrong)
    assert selfcheck._check_bodies(["cython"], rng) == 1
    assert "FAIL" in capsys.readouterr().out


def test_self_check_prints_what_it_should(monkeypatch, capsys):
    monkeypatch.setattr(selfcheck, "BODIES", ("numpy", "cython"))
    assert selfcheck.run() == 0
    text = capsys.readouterr().out
    for word in ("fastgd", "numpy", "instruction set", "threads", "adam_step", "PASS", "gradient", "microseconds"):
        assert word in text
    assert "FAIL" not in text


def test_plot_has_a_line_for_each_loss():
    from fastgd.plots import plot_loss

    figure = plot_loss(fastgd.History(loss=[2.0, 1.0], validation_loss=[2.5, 1.5]))
    (axes,) = figure.axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[2.0, 1.0], [2.5, 1.5]]
    assert axes.get_xlabel() == "epoch"
    assert np.all([text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"])
