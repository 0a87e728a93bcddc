"""The scripts and the notebooks in examples/, on data that need no download."""

import pathlib
import runpy

import nbclient
import nbformat
import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def test_the_cartpole_learns():
    """A tenth of the steps that the task needs make the policy clearly better than the untrained network's."""
    cartpole = runpy.run_path(str(EXAMPLES / "cartpole.py"))
    agent, memory = cartpole["Agent"](0), cartpole["Memory"]()
    untrained = cartpole["evaluate"](agent, np.random.default_rng(1), episodes=5)
    returns = list(cartpole["train"](agent, memory, np.random.default_rng(0), 6000))
    assert memory.added == 6000 >= sum(returns)
    assert cartpole["evaluate"](agent, np.random.default_rng(1), episodes=5) > 60 > 5 * untrained


def test_the_flights_train_from_one_command(tmp_path, capsys):
    """Made-up ones; a network of which the columns are shuffled, apart from the target, orders them no better than
    chance."""
    flights = runpy.run_path(str(EXAMPLES / "flights.py"))
    table = flights["made_up"](4000, np.random.default_rng(0))
    network, area = flights["run"](table, tmp_path, "--epochs", "6", "--hidden", "64")
    assert 0.75 < area < 0.95
    assert {type(column).__name__ for column in network.preprocessing.columns} == {"Numbers", "Categories", "Dates"}
    assert "there is only one value: 'year'" in capsys.readouterr().out
    flights["report"](network, table.astype(object).where(table.notna(), None).iloc[0].to_dict())
    shuffled = table.assign(late=np.random.default_rng(1).permutation(table["late"]))
    assert 0.4 < flights["run"](shuffled, tmp_path, "--epochs", "2", "--hidden", "64")[1] < 0.6


def test_the_digits_in_place_of_the_garments(monkeypatch, capsys):
    fashion = runpy.run_path(str(EXAMPLES / "fashion_mnist.py"))
    accuracy, always = fashion["main"]()
    assert accuracy > 0.95 > 0.2 > always
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scikit-learn's digits")
    assert f"accuracy {accuracy:.3f} on 360 test images" in lines[2]
    counts = np.array([line.split()[1:11] for line in lines[5:]], int)
    assert counts.shape == (10, 10)
    assert counts.sum() == 360
    assert np.trace(counts) / 360 == accuracy


def test_the_garments_come_from_a_folder(tmp_path):
    """Random pixels in IDX files: no network is better than chance on new ones."""
    rng = np.random.default_rng(0)
    for name, rows in (("train", 300), ("t10k", 200)):
        pixels, labels = rng.integers(0, 256, (rows, 28, 28)), np.arange(rows) % 10
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (tmp_path / f"{name}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    accuracy, always = runpy.run_path(str(EXAMPLES / "fashion_mnist.py"))["main"](tmp_path)
    assert always == 0.1
    assert accuracy < 0.2


def test_the_oscillation_is_found_with_its_error_bars(tmp_path):
    fit = runpy.run_path(str(EXAMPLES / "damped_oscillation.py"))
    error, one, two = fit["main"](tmp_path / "fit.png", epochs=100)
    assert error < 0.03  # a third of the noise
    assert abs(one - 0.683) < 0.03
    assert abs(two - 0.954) < 0.02
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")


def executed(name, *changes):
    """The code cells of a notebook and all that they printed; changes: (text, other text) in its source."""
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    for old, new in changes:
        assert sum(cell.source.count(old) for cell in notebook.cells) == 1
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    nbclient.NotebookClient(notebook, timeout=300, coalesce_streams=True).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    texts = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "Warning" not in texts
    return cells, texts


def count_shown(cells, kind):
    return sum(kind in output.get("data", ()) for cell in cells for output in cell.outputs)


def test_the_notebook_runs_and_shows_pictures():
    cells, texts = executed("sweep.ipynb")
    assert count_shown(cells, "image/png") == 4
    assert count_shown(cells, "text/html") == 3  # the network, the history, the sweep
    assert float(texts.split("'accuracy': ")[1].split("}")[0]) > 0.95


def test_the_notebook_of_a_table():
    cells, texts = executed("tabular.ipynb")
    assert count_shown(cells, "image/png") == 2
    assert count_shown(cells, "text/html") == 4  # the table, the preprocessing, the network, the sweep
    errors = [float(line.split()[-1]) for line in texts.splitlines() if " rmse " in line]
    mean, linear, large, five = errors
    assert five < linear < 60 < 65 < min(mean, large)


def test_the_notebook_of_pictures():
    """On the digits, also where the garments are installed."""
    cells, texts = executed("images.ipynb", ("/usr/share/datasets/fashion-mnist", "no folder"))
    assert count_shown(cells, "image/png") == 6
    assert count_shown(cells, "text/html") == 2  # the network, the history
    accuracies = [float(line.split()[-1]) for line in texts.splitlines() if "pixels: accuracy" in line]
    assert accuracies[0] > 0.9 > 0.6 > accuracies[-1]


def test_the_notebook_of_a_text():
    """For an epoch instead of three."""
    cells, texts = executed("text.ipynb", ("epochs = 32, 16, 3", "epochs = 32, 16, 1"))
    assert count_shown(cells, "image/png") == 2
    assert count_shown(cells, "text/html") == 2
    bits = [float(line.split()[3]) for line in texts.splitlines() if line.startswith("bits a byte")]
    assert 1.8 < bits[0] < 2.6  # ln 1000 nats a piece, before the training, are 3.5


@pytest.mark.parametrize("name", ["sweep.ipynb", "tabular.ipynb", "images.ipynb", "text.ipynb"])
def test_what_is_stored_is_what_the_cells_show(name):
    """Each was run once, from top to bottom, without an error; it is small."""
    cells = [cell for cell in nbformat.read(EXAMPLES / name, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert (EXAMPLES / name).stat().st_size < 200_000
