"""Messages about mistakes that users of other libraries make: what they say that helps."""

import copy
import dataclasses
import importlib.util
import io
import json
import pickle
import re
import sys

import numpy as np
import pytest
import tqdm.std

import fastgd
from fastgd import (
    GRU,
    LSTM,
    Adam,
    Conv2D,
    Dense,
    Embedding,
    Flatten,
    MaxPool2D,
    Network,
    callbacks,
    optimizers,
    schedules,
)
from fastgd.cli import figures, texts
from fastgd.cli.parser import parser
from fastgd.core import hints
from fastgd.errors import first_difference, shown
from fastgd.optimizers.base import COMMON

X, Y = np.zeros((6, 4)), np.arange(6) % 2


def classifier():
    return Network(4, [Dense(3, "relu"), Dense(2)], loss="softmax_cross_entropy")


def regression():
    return Network(1, [Dense(1)], loss="mse")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        # unknown and missing arguments
        (lambda: classifier().fit(X, Y, epoch=3), TypeError, "'epoch'; did you mean 'epochs'?"),
        (lambda: classifier().fit(X, Y, validation_split=0.2), TypeError, "did you mean 'validation_fraction'?"),
        (lambda: classifier().fit(X, Y, lr=0.1), TypeError, "optimizer=fastgd.Adam(1e-3)"),
        (lambda: classifier().fit(X, Y, zzz=0.1), TypeError, "unexpected keyword argument 'zzz'"),
        (lambda: Network([Dense(2)], loss="mse"), TypeError, "'layers'; for example Network(64, [Dense("),
        (lambda: Network(4, [Dense(2)], loss="mse", random_state=0), TypeError, "did you mean 'seed'?"),
        (lambda: Network(4, [Dense(2)], loss="mse", optimizer="adam"), TypeError, "an argument of fit"),
        (lambda: Adam(1e-3, betas=(0.9, 0.99)), TypeError, "got betas; did you mean 'beta1', 'beta2'?"),
        (lambda: Adam(beta_2=0.9), TypeError, "did you mean 'beta2'?"),
        (lambda: Adam(epsilon=1e-7), TypeError, "did you mean 'eps'?"),
        (lambda: fastgd.RMSProp(rho=0.9), TypeError, "did you mean 'alpha'?"),
        (lambda: fastgd.AdaDelta(alpha=0.9), TypeError, "did you mean 'rho'?"),
        (lambda: Adam(schedule=schedules.constant(1.0)), TypeError, "given as the learning rate"),
        (lambda: Adam(zzz=1), TypeError, "got zzz"),
        (lambda: classifier().train_step(X, Y, "adamw"), TypeError, "in fit alone: optimizer = fastgd.AdamW()"),
        (lambda: classifier().train_step(X, Y, Adam), TypeError, "Adam() makes one"),
        (lambda: Adam().step(), TypeError, "'params': expected a network, or arrays and their gradients"),
        (lambda: schedules.reduce_on_plateau(1e-3, monitor="loss"), TypeError, "fit passes it the validation loss"),
        (lambda: schedules.cosine(1e-3), TypeError, "for example cosine(1e-3, total_steps=1000)"),
        (lambda: schedules.cosine(1e-3, T_max=9), TypeError, "did you mean 'total_steps'?"),
        (lambda: schedules.step(1e-3, step_size=9), TypeError, "did you mean 'every'?"),
        (lambda: schedules.one_cycle(max_lr=1e-3), TypeError, "did you mean 'peak'?"),
        (lambda: schedules.warmup(zzz=1), TypeError, "unexpected keyword argument 'zzz'"),
        (lambda: Dense(4, 2), TypeError, "sizes of inputs are not given"),
        (lambda: Dense(4, "softmax"), ValueError, "the loss softmax_cross_entropy applies softmax"),
        # attributes
        (lambda: classifier().summary(), AttributeError, "print(net.describe())"),
        (lambda: Adam().zero_grad(), AttributeError, "each gradient replaces the last one"),
        (lambda: Adam().stepp, AttributeError, "did you mean 'step'?"),
        (lambda: classifier().predictt(X), AttributeError, "did you mean 'predict'?"),
        (lambda: fastgd.History(validation_loss=[1.0]).val_loss, AttributeError, "history[name]"),
        (lambda: fastgd.History()["acuracy"], ValueError, "'name'"),
        (lambda: fastgd.History(metrics={"validation_mae": [1.0]}).metrics["mae"], KeyError, "'validation_mae', got"),
        (lambda: fastgd.History().metrics["mae"], KeyError, "fit was called without metrics="),
        (lambda: fastgd.Linear, AttributeError, "did you mean 'Dense'?"),
        (lambda: fastgd.Conv2d, AttributeError, "did you mean 'Conv2D'?"),
        (lambda: fastgd.callbacks.EarlyStopping, AttributeError, "patience=5"),
        (lambda: fastgd.schedules.CosineAnnealingLR, AttributeError, "did you mean 'cosine'?"),
        # shapes and types
        (lambda: regression().fit(np.zeros(6), np.zeros(6)), ValueError, "use X.reshape(-1, 1) for rows of"),
        (lambda: classifier().predict(X[0]), ValueError, "use x.reshape(1, -1) for one row"),
        (lambda: classifier().fit(X.reshape(6, 2, 2), Y), ValueError, "use X.reshape(-1, 4)"),
        (lambda: classifier().fit(X, Y[:, None]), ValueError, "use y.ravel()"),
        (lambda: classifier().fit(X, np.array(list("ababab"))), TypeError, "np.unique(y, return_inverse=True)"),
        (lambda: classifier().fit(np.full((6, 4), np.nan), Y), ValueError, "at index (0, 0); fastgd.tables"),
        (lambda: classifier().fit("a.csv"), TypeError, "fastgd.tables.read"),
        (lambda: classifier().predict({"a": 1}), TypeError, "predict_table"),
        (lambda: Network(4, [Dense(2)], loss="mse").fit(X, Y), ValueError, "for the loss softmax_cross_entropy"),
        (lambda: classifier().fit(X, Y, validation_data=(X,)), TypeError, "got a tuple of 1"),
        (lambda: classifier().fit(X, Y, monitor="accuracy"), ValueError, "which needs metrics=['accuracy']"),
        (
            lambda: Network((4, 4), [Dense(2)], loss="softmax_cross_entropy").fit(np.zeros((6, 4, 4)), Y),
            ValueError,
            "the output has positions (4,): Flatten()",
        ),
        (lambda: Network((8, 8), [Conv2D(2, 3), Flatten(), Dense(1)], loss="mse"), ValueError, "that is (8, 8, 1)"),
        (lambda: Network((1, 8, 8), [Conv2D(2, 3), Dense(1)], loss="mse"), ValueError, "channels come last"),
        (lambda: Network((5, 2), [LSTM(3), LSTM(3)], loss="mse"), ValueError, "return_sequences=True"),
        (lambda: Network((5, 2), [GRU(3), GRU(3)], loss="mse"), ValueError, "return_sequences=True"),
        (lambda: fastgd.models.gpt(9, 4, layers=1, heads=3, width=8), ValueError, "a divisor of width = 8"),
    ],
)  # fmt: skip
def test_messages_say_what_helps(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_errors_from_within_a_call_are_passed_on():
    def fails(y, prediction):
        raise TypeError("of my own")

    with pytest.raises(TypeError, match=r"^of my own$"):
        classifier().evaluate(X, Y, metrics=[fails])


def test_other_formats_are_not_written(tmp_path):
    network = classifier()
    for name, of in {"m.h5": "Keras", "m.PT": "torch", "m.onnx": "net.to_onnx(path)", "m.pkl": "pickles"}.items():
        with pytest.raises(ValueError, match=rf"'path': expected a path ending in .safetensors.*{re.escape(of)}"):
            network.save(tmp_path / name)
        with pytest.raises(ValueError, match="'checkpoint': expected a path ending in .safetensors"):
            network.fit(X, Y, checkpoint=tmp_path / name)
    network.save(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_advice_matches_what_there_is():
    """Every name that advice suggests exists."""
    options = {one for kind in optimizers.OPTIMIZERS.values() for one in hints.inspect.signature(kind).parameters}
    assert {one for names in hints.OF_OPTIMIZERS.values() for one in names} <= options | {*COMMON}
    fields = {one for kind in schedules.SCHEDULES.values() for one in hints.inspect.signature(kind).parameters}
    assert {one for names in hints.OF_SCHEDULES.values() for one in names} <= fields
    assert not {name for name in hints.OF_STATE if hasattr(Adam(), name)}
    of_fit = set(hints.inspect.signature(Network.fit).parameters) | set(hints.inspect.signature(Network).parameters)
    assert set(hints.ARGUMENTS.values()) <= of_fit
    public = {*fastgd.__all__, *fastgd.schedules.__all__}
    assert set(hints.NAMES.values()) <= public
    assert not {name for name in hints.OF_NETWORKS if hasattr(classifier(), name)}
    train = parser().command("train")
    assert {train.advice([f"--{name}"]) for name in ("lr", "learning-rat")} == {"; did you mean --learning-rate?"}
    assert train.advice(["--zzz"]) == train.advice(["more"]) == ""


def test_networks_and_histories_are_still_copied_and_pickled():
    network = classifier()
    network.fit(X, Y, epochs=2, validation_data=(X, Y), metrics="accuracy")
    for made in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert made.history == network.history
    assert not hasattr(network, "_repr_png_")
    assert not hasattr(fastgd, "__nothing__")


def test_metrics_of_a_history_are_a_dict(tmp_path):
    network = classifier()
    history = network.fit(X, Y, epochs=2, metrics="accuracy", checkpoint=tmp_path / "m")
    assert isinstance(history.metrics, dict)
    assert history.metrics == json.loads(json.dumps(history.metrics)) == dataclasses.asdict(history)["metrics"]
    for twin in (pickle.loads(pickle.dumps(history)), copy.deepcopy(history), fastgd.load(tmp_path / "m")[0].history):
        assert twin.metrics == history.metrics
        with pytest.raises(KeyError, match="'accuracy', got 'acuracy'"):
            twin.metrics["acuracy"]
        assert twin.metrics.get("acuracy") is None


def test_columns_of_a_history_by_name():
    history = classifier().fit(X, Y, epochs=2, validation_data=(X, Y), metrics="accuracy")
    assert history["loss"] is history.loss
    assert history["val_loss"] is history.validation_loss
    assert history["val_acc"] is history.metrics["validation_accuracy"]
    for best, end in ((1, "epochs, best epoch: 1>"), (2, "; stopped: epochs>"), (None, "; stopped: epochs>")):
        history.best_epoch = best  # it is shown unless the values before it are of that epoch
        assert repr(history).endswith(end)
    with pytest.raises(AttributeError, match="'validation_accuracy'"):
        _ = history.accuracy
    with pytest.raises(TypeError, match="'name'"):
        _ = history[0]


def test_padding_in_any_case():
    layers = [Conv2D(2, 3, padding="SAME"), MaxPool2D(2, padding="Valid"), Flatten(), Dense(1)]
    assert Network((8, 8, 1), layers, loss="mse").config()["layers"][0]["padding"] == "same"


def test_lr_in_a_sweep():
    table = fastgd.sweep(classifier(), X, Y, {"lr": [0.1, 0.01]}, epochs=1)
    assert table.columns["learning_rate"] == [0.1, 0.01]
    with pytest.raises(ValueError, match=re.escape("sweep(lambda width: Network(...), ...)")):
        fastgd.sweep(classifier(), X, Y, {"width": [3, 4]})

    def made(lr):
        assert lr == 7
        return classifier()

    assert "lr" in fastgd.sweep(made, X, Y, {"lr": [7]}, epochs=1).columns


def test_long_lists_are_cut_between_elements():
    names = [f"column {i}" for i in range(30)]
    text = shown(names)
    assert text.startswith("['column 0', 'column 1', ")
    assert text.endswith("', ... 30 in all]")
    assert len(text) <= 90
    assert shown(tuple(names))[-1] == ")"
    assert shown(["a" * 200]).endswith("...")


def test_the_first_difference():
    layer = {"layer": "Dense", "units": 3, "activation": {"name": "relu"}}
    one, other = {"layers": [layer] * 3}, {"layers": [layer, {**layer, "units": 5}]}
    named = first_difference("network", one, other)
    assert named == ("network.layers[1]", repr(layer), repr({**layer, "units": 5}))
    assert first_difference("network", one, {"layers": [layer] * 2}) == ("network.layers", "3 elements", "2")
    assert first_difference("fit", {"epochs": 3}, {"epochs": 4}) == ("fit", "{'epochs': 3}", "{'epochs': 4}")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_control_characters_of_a_model_do_not_reach_a_terminal(monkeypatch):
    text = "a\x1b[31mb\x9b\r\n\tü\N{NO-BREAK SPACE}"
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert texts.on_terminal(text) == "a\\x1b[31mb\\x9b\\r\n\tü\N{NO-BREAK SPACE}"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert texts.on_terminal(text) == text  # a file gets what the model wrote


def test_a_sweep_is_a_table_in_a_notebook():
    table = fastgd.sweep(classifier(), X, Y, {"learning_rate": [0.1, 0.01]}, epochs=1, optimizer=Adam())
    html = table._repr_html_()
    assert html.count("<tr>") == 3
    assert html.startswith("<p>2 trainings, the best first</p>")


def test_a_token_model_needs_an_embedding():
    with pytest.raises(ValueError, match="Embedding makes them of tokens"):
        Network(5, [LSTM(3), Dense(1)], loss="mse")
    assert Network(5, [Embedding(9, 2), LSTM(3), Dense(1)], loss="mse").output_shape == (1,)


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        (["train", "digits", "--lr", "1"], "unrecognized arguments: --lr 1; did you mean --learning-rate? "),
        (["train", "digits", "--batch_size", "1"], "; did you mean --batch-size? "),
        (["train", "digits", "--hidden", "[3]"], "expected integers such as 128,64, got '[3]' "),
        (["predict", "m"], "the following arguments are required: DATA "),
    ],
)
def test_wrong_usage_is_one_line(arguments, end, capsys):
    with pytest.raises(SystemExit) as left:
        parser().parse_args(arguments)
    err = capsys.readouterr().err
    assert left.value.code == 2
    assert err.count("\n") == 1
    assert err.startswith(f"fastgd {arguments[0]}: error: ")
    assert f"{end}(`fastgd {arguments[0]} --help`" in err


@pytest.mark.parametrize(
    ("losses", "note"),
    [([1.0, 0.5, 0.9], "after epoch 2, 0.5000"), ([1.0, 0.5, 0.51], ""), ([-1.0, -3.0, -2.0], "epoch 2"), ([], ""),
     ([np.nan], ""), ([np.nan, 0.5, 0.9], "epoch 2")],
)  # fmt: skip
def test_a_note_on_a_validation_loss_that_rises(losses, note, capsys):
    figures.advise_patience(fastgd.History(validation_loss=losses))
    err = capsys.readouterr().err
    assert note in err
    assert bool(note) == ("--patience" in err)


def test_without_ipywidgets_the_bar_is_one_of_text(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert callbacks._bar_class.__wrapped__() is tqdm.std.tqdm
