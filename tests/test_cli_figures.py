"""What `train` and `evaluate` print beside the accuracy: baselines, the confusion matrix, further metrics."""

import json
import pathlib
import sys

import numpy as np
import pytest
from sklearn import metrics as sk

import fastgd
from fastgd.cli import figures
from fastgd.cli import parser as cli
from fastgd.metrics import METRICS

KINDS = ["usual"] * 14 + ["rare"] + ["other"] * 5


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with rows.csv: a column `x` that tells the price, and `kind` that nothing tells."""
    rng = np.random.default_rng(0)
    x, kinds = rng.normal(size=200), rng.permutation(KINDS * 10)
    lines = [f"{v},{1000 + 200 * v},{k}\n" for v, k in zip(x, kinds, strict=True)]
    (tmp_path / "rows.csv").write_text("x,price,kind\n" + "".join(lines))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = cli.main([*arguments])
        out, error = capsys.readouterr()
        return code, out, error

    return call


def number(out, name):
    """The number behind a name at the beginning of a line."""
    (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
    return float(line.removeprefix(name).split()[0])


TRAIN = ("train", "rows.csv", "--quiet", "--seed", "1", "--epochs", "8")


def test_regression_is_told_in_units_beside_the_mean(run):
    code, out, error = run(*TRAIN, "--target", "price", "--drop", "kind", "--metrics", "mse", "--log", "log")
    assert (code, error) == (0, "")
    logged = [json.loads(line).get("validation_mse", np.nan) for line in pathlib.Path("log").read_text().splitlines()]
    assert np.nanmin(np.abs(np.divide(logged, number(out, "validation mse")) - 1)) < 1e-3  # of the epoch that is kept
    assert 0 < number(out, "validation mae") <= number(out, "validation rmse")
    assert number(out, "validation mse") == pytest.approx(number(out, "validation rmse") ** 2, rel=1e-3)
    assert 150 < number(out, "validation baseline rmse") < 250 > number(out, "validation rmse")
    code, out, error = run(*TRAIN, "--target", "price", "--drop", "kind", "--overwrite", "--metrics", "rmse,mae")
    assert (code, error) == (0, "")
    assert number(out, "validation mae") <= number(out, "validation rmse")  # a line each
    drawn = figures.picture(fastgd.load("rows.safetensors")[0], "on rows", None)
    assert drawn.get_suptitle() == "Training on rows"
    assert [axes.get_title() for axes in drawn.axes[:4]] == ["Loss", "r2", "rmse", "mae"]
    last = [axes.lines[0].get_ydata()[-1] for axes in drawn.axes[1:4]]
    expected = [number(out, f"validation {name}") for name in ("r2", "rmse", "mae")]
    assert last == pytest.approx(expected, rel=1e-3)
    code, out, error = run("evaluate", "rows.safetensors", "rows.csv")
    _, as_json, _ = run("evaluate", "rows.safetensors", "rows.csv", "--json")
    prices = np.loadtxt("rows.csv", delimiter=",", skiprows=1, usecols=1)
    assert (code, error) == (0, "")
    assert json.loads(as_json)["baseline rmse"] == pytest.approx(prices.std(), rel=1e-5)
    assert number(out, "baseline rmse") == pytest.approx(prices.std(), rel=1e-5)
    code, _, error = run("evaluate", "rows.safetensors", "rows.csv", "--confusion")
    assert code == 1
    assert "--confusion" in error


@pytest.mark.parametrize(("target", "usual"), [("kind", "accuracy"), ("price", "r2")])
def test_without_validation_the_usual_metric_is_computed_once(run, target, usual):
    """At the end, of the rows of the training; after each epoch only if it is asked for."""
    train = (*TRAIN, "--target", target, "--validation", "0", "--overwrite")
    code, out, _ = run(*train)
    assert code == 0
    network = fastgd.load("rows.safetensors")[0]
    assert network.history.metrics == {}
    _, as_json, _ = run("evaluate", "rows.safetensors", "rows.csv", "--json")
    at_end = number(out, usual)
    assert at_end == pytest.approx(json.loads(as_json)[usual], abs=1e-4)
    code, out, _ = run(*train, "--metrics", usual.upper())
    assert (code, number(out, usual)) == (0, at_end)
    assert len(fastgd.load("rows.safetensors")[0].history.metrics[usual]) == 8


def test_a_network_that_is_no_better_than_the_majority_gets_a_warning(run):
    code, out, error = run(*TRAIN, "--target", "kind", "--drop", "price", "--metrics", "auc,recall(label=0)")
    share = number(out, "validation baseline accuracy")
    assert code == 0
    assert "(always 'usual', the most frequent class)" in out
    assert 0 <= number(out, "validation recall(label=0)") <= 1 >= number(out, "validation auc")
    useless = number(out, "validation accuracy") <= share
    assert useless  # nothing tells the kind
    assert error.startswith("warning: accuracy")
    code, out, error = run("evaluate", "rows.safetensors", "rows.csv", "--json", "--confusion", "--metrics", "auc")
    result = json.loads(out)
    assert result["baseline accuracy"] == 0.7
    assert list(result) == ["rows", "loss", "accuracy", "auc", "baseline accuracy", "confusion"]
    assert ("warning" in error) == (result["accuracy"] <= 0.7)
    found = result["confusion"]
    assert found["classes"] == ["other", "rare", "usual"]
    assert np.sum(found["matrix"], axis=1).tolist() == [50, 10, 140]
    assert np.trace(found["matrix"]) / 200 == pytest.approx(result["accuracy"])


def test_weighted_classes_are_judged_by_balanced_accuracy(run, capsys):
    net = fastgd.Network(1, [fastgd.Dense(3)], loss="softmax_cross_entropy")
    y, base = np.repeat([0, 1], [9, 1]), ("baseline accuracy", 0.9, "always '0'")
    for values, warns in (({}, "accuracy 0.8000 is"), ({"balanced_accuracy": 0.51}, ""),
                          ({"balanced_accuracy": 0.5}, "balanced accuracy 0.5000 is no better")):  # fmt: skip
        figures.warn_if_useless(net, {"accuracy": 0.8, **values}, base, y)
        error = capsys.readouterr().err
        assert bool(warns) == bool(error)
        assert warns in error
    code, out, error = run(*TRAIN, "--target", "kind", "--drop", "price", "--class-weight", "balanced")
    assert code == 0
    assert "validation baseline accuracy" in out
    assert not error or error.startswith("warning: balanced accuracy")


def test_a_class_by_its_name(run):
    metrics = "recall(label=usual),recall(label=0),f1(label=rare)"
    code, out, _ = run(*TRAIN, "--target", "kind", "--drop", "price", "--metrics", metrics)
    assert code == 0
    _, as_json, _ = run("evaluate", "rows.safetensors", "rows.csv", "--json", "--metrics", metrics, "--confusion")
    result = json.loads(as_json)
    assert {"recall(label=2)", "recall(label=0)", "f1(label=1)"} < {*result}
    assert result["recall(label=2)"] == result["confusion"]["recall"][2]
    assert f"validation recall(label=2) {number(out, 'validation recall(label=2)'):.4f}\n" in out
    for command in (("evaluate", "rows.safetensors", "rows.csv"), (*TRAIN, "--target", "kind", "--overwrite")):
        code, _, error = run(*command, "--metrics", "recall(label=late)")
        assert code == 1
        assert "'--metrics': expected a label among ['other', 'rare', 'usual'], got 'late'" in error


def test_a_network_that_learns_gets_none_and_its_confusion_matrix(run, monkeypatch):
    code, out, error = run("train", "digits", "--epochs", "3", "--quiet", "--plot", "", "--optimizer", "ADAM")
    assert (code, error) == (0, "")
    assert number(out, "validation accuracy") > 0.8 > 0.2 > number(out, "validation baseline accuracy")
    _, out, _ = run("evaluate", "digits.safetensors", "digits", "--confusion")
    _, as_json, _ = run("evaluate", "digits.safetensors", "digits", "--confusion", "--json")
    network, _ = fastgd.load("digits.safetensors")
    X, y = fastgd.cli.datasets.digits()[1]
    predicted = network.predict(X).argmax(axis=1)
    found = json.loads(as_json)["confusion"]
    assert found["matrix"] == sk.confusion_matrix(y, predicted).tolist()
    for name, peer in (("recall", sk.recall_score), ("precision", sk.precision_score)):
        assert found[name] == pytest.approx(peer(y, predicted, average=None), rel=1e-12)
    lines = out.splitlines()[-10:]
    for label, line in enumerate(lines):
        cells = line.split()
        assert [int(cell) for cell in cells[:11]] == [label, *found["matrix"][label]]
        assert float(cells[11]) == pytest.approx(found["recall"][label], abs=1e-4)
        assert float(cells[12]) == pytest.approx(found["precision"][label], abs=1e-4)
    monkeypatch.setattr(sys, "stderr", None)
    assert run("evaluate", "digits.safetensors", "digits")[0] == 0


def test_long_names_are_numbers_above_the_columns(capsys):
    names = [f"a class with the long name {letter}" for letter in "abcdef"]
    matrix = np.diag(np.arange(6) + 10_000).tolist()
    figures.print_confusion(
        {"classes": names, "matrix": matrix, "recall": [1.0] * 5 + [None], "precision": [None] + [0.5] * 5}
    )
    head, *lines = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["true", "\\", "predicted", *"012345", "recall", "precision"]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert max(map(len, lines)) <= figures.WIDEST
    assert lines[0].startswith("0 a class with")
    assert lines[0].split()[-2:] == ["1.0000", "-"]


def test_unknown_metrics_are_named(run):
    code, _, error = run(*TRAIN, "--target", "kind", "--metrics", "acuracy")
    assert (code, "'--metrics[0]'" in error, "did you mean 'accuracy'" in error) == (1, True, True)


def test_what_is_not_defined_is_null(run, tmp_path):
    assert run(*TRAIN, "--target", "kind", "--drop", "price")[0] == 0
    (tmp_path / "one.csv").write_text("x,kind\n1,usual\n2,usual\n")
    code, out, _ = run("evaluate", "rows.safetensors", "one.csv", "--json", "--metrics", "auc")
    assert (code, json.loads(out, parse_constant=pytest.fail)["auc"]) == (0, None)


def test_baseline_of_one_output(rng):
    net = fastgd.Network(3, [fastgd.Dense(1)], loss="binary_cross_entropy")
    y = np.array([0, 1, 0, 0, 1])
    assert figures.baseline(net, y) == ("baseline accuracy", 0.6, "always '0', the most frequent class")
    assert figures.baseline(net, np.array([0.9, 0.8, 0.1]))[1:] == (2 / 3, "always '1', the most frequent class")
    assert figures.metrics(net, ["auc", "Accuracy"]) == ["accuracy", METRICS["auc"]]
    assert sum(map(sum, figures.confusion(net, rng.normal(size=(5, 3)), y)["matrix"])) == 5


def test_texts_have_no_such_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("to be or not to be " * 40)
    train = ("train", "book.txt", "--epochs", "0", "--quiet", "--width", "8", "--layers", "1", "--context", "8")
    assert cli.main([*train, "--metrics", "auc"]) == 1
    assert "'--metrics'" in capsys.readouterr().err
    assert cli.main([*train]) == 0
    for option in (["--metrics", "auc"], ["--confusion"]):
        assert cli.main(["evaluate", "book.safetensors", "book.txt", *option]) == 1
        assert f"'{option[0]}'" in capsys.readouterr().err
