"""What a notebook shows of a cell's last line, and what `dir` shows of a module."""

import dataclasses
import html.parser
import types

import numpy as np
import pytest

import fastgd
from fastgd import Adam, Dense, Dropout, History, Network, Sequential
from fastgd.core.html import html_table


class Cells(html.parser.HTMLParser):
    """The texts of the cells of a table, by row; the tags must be balanced."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_a_network_is_a_table_of_its_layers():
    network = Network(4, [Sequential([Dense(3, "relu"), Dropout(0.5)]), Dense(2)], loss="mse")
    header, *rows = Cells(network._repr_html_()).rows
    assert header == ["", "layer", "output", "parameters"]
    assert [row[0] for row in rows] == ["1", "1.1", "1.2", "2"]
    assert [row[2:] for row in rows] == [["3", "15"], ["3", "15"], ["3", "0"], ["2", "8"]]


def test_a_history_is_a_table_of_its_epochs(rng):
    X, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 1))
    history = Network(4, [Dense(1)], loss="mse").fit(
        X, y, optimizer=Adam(), epochs=3, validation_data=(X, y), metrics="r2"
    )
    header, *rows = Cells(history._repr_html_()).rows
    assert header == ["epoch", *history.columns()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[1] for row in rows] == [f"{loss:.4g}" for loss in history.loss]
    long = History(loss=[0.5] * 1000, metrics={"<b>": [1.0] * 999})
    header, *rows = Cells(long._repr_html_()).rows
    assert header == ["epoch", "loss", "<b>"]
    assert [row[0] for row in rows[9:12]] == ["10", "...", "991"]
    assert rows[-1] == ["1,000", "0.5", ""]


def test_a_range_test_is_a_table_of_its_suggestion(rng):
    X = rng.normal(size=(200, 4))
    found = fastgd.find_learning_rate(Network(4, [Dense(1)], loss="mse"), X, X[:, :1], low=1e-4, steps=60)
    header, *rows = Cells(found._repr_html_()).rows
    assert header == ["", "learning rate", "smoothed loss"]
    at = int(np.flatnonzero(found.learning_rate == found.suggestion)[0])
    for row, name, i in zip(rows, ("first", "suggestion", "lowest loss", "last"), (0, at, found.smoothed.argmin(), -1),
                            strict=True):  # fmt: skip
        assert row == [name, f"{found.learning_rate[i]:.3g}", f"{found.smoothed[i]:.4g}"]
    assert f"Range test of {len(found.loss)} rates" in found._repr_html_()
    of_lion = dataclasses.replace(found, suggestion=0.3 * found.suggestion)  # between two rates
    assert Cells(of_lion._repr_html_()).rows[2][:2] == ["suggestion", f"{0.3 * found.suggestion:.3g}"]


def test_a_sweep_is_a_table_of_its_trainings(rng):
    X, network = rng.normal(size=(20, 4)), Network(4, [Dense(1)], loss="mse")
    sweep = fastgd.sweep(network, X, X[:, :1], {"learning_rate": np.logspace(-9, -1, 31).tolist()}, epochs=1)
    header, *rows = Cells(sweep._repr_html_()).rows
    assert header == ["index", *sweep.columns]
    assert [int(row[0]) for row in rows] == sweep.order()[:30]
    assert [row[1] for row in rows] == [f"{sweep.settings[i]['learning_rate']:.4g}" for i in sweep.order()[:30]]
    assert "31 trainings, of which the best 30" in sweep._repr_html_()


def test_a_preprocessing_is_a_table_of_its_columns():
    table = {"<b>size</b>": [1.0, None, 3.0], "kind": ["x", "y", "x"], "price": [1.5, 2.5, 3.5]}
    prep = fastgd.tables.Preprocessing.of(table, "price")
    header, *rows = Cells(prep._repr_html_()).rows
    assert header == ["column", "kind", "features"]
    assert rows == [["<b>size</b>", "numbers", "2"], ["kind", "categories", "2"]]
    assert "<b>" not in prep._repr_html_()


def test_figures_stand_at_the_right_and_texts_at_the_left():
    shown = html_table("<i>", ["name", "n"], [["a", "1,000"], ["2", "..."], ["nan", ""]])
    assert shown.count("text-align: left") == shown.count("text-align: right") == 4
    assert "<i>" not in shown
    assert Cells(html_table("none", ["name", "n"], [])).rows == [["name", "n"]]


def test_a_history_names_whole_numbers():
    assert "rows 12,345, seconds 1.5;" in repr(History(loss=[0.5], rows=[12345], seconds=[1.5]))


def test_a_figure_is_a_picture():
    pytest.importorskip("matplotlib")
    figure = History(loss=[2.0, 1.0]).plot()
    assert figure._repr_png_().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_bar_counts_in_hundredths_of_an_epoch(capfd):
    X = [[float(i)] for i in range(7)]
    Network(1, [Dense(1)], loss="mse").fit(X, X, batch_size=1, epochs=3, progress=True)
    assert not any(len(word.partition(".")[2].partition("/")[0]) > 2 for word in capfd.readouterr().err.split()
                   if "/3" in word)  # fmt: skip


MODULES = {name: getattr(fastgd, name) for name in dir(fastgd) if isinstance(getattr(fastgd, name), types.ModuleType)}


@pytest.mark.parametrize("name", MODULES)
def test_dir_shows_what_is_for_users(name):
    module = MODULES[name]
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("name", ["activations", "initializers", "losses", "metrics", "optimizers", "schedules"])
def test_dir_shows_all_that_has_a_name(name):
    assert set(getattr(MODULES[name], name.upper())) <= set(dir(MODULES[name]))
