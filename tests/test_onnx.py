"""ONNX models: onnxruntime computes what the package does, and errors name what ONNX cannot express."""

import json

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pyarrow
import pytest
from cases import LAYERS

import fastgd
import fastgd.onnx
from fastgd import Dense, Network, Standardize
from fastgd.activations import ACTIVATIONS, elu, leaky_relu
from fastgd.losses import LOSSES, huber
from fastgd.tables import Preprocessing

# Relative to the largest input or output: sums of large numbers may cancel before an activation.
TOLERANCES = {"float32": 2e-6, "float64": 1e-14}


def run(path, feed, outputs=None):
    """The outputs of onnxruntime, by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def exported(network, folder, **options):
    network.to_onnx(folder / "m.onnx", **options)
    return folder / "m.onnx"


def check_agrees(got, network, x):
    expected, scale = network.predict(x), max(1.0, np.abs(x).max(), np.abs(network.forward(x)).max())
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if network.loss_function.name == "poisson":  # rates agree in proportion; some overflow or vanish
        limits = np.finfo(got.dtype)
        got, expected = (np.log(np.clip(rates, limits.tiny, limits.max)) for rates in (got, expected))
    assert np.abs(got - expected).max() <= TOLERANCES[str(network.dtype)] * scale


NETWORKS = {
    **{name: ([Dense(40, name), Dense(3)], "mse") for name in ACTIVATIONS},
    **{f"{name}, last": ([Dense(3, name)], "mae") for name in ACTIVATIONS},
    **{f"{name} loss": ([Dense(9, "relu"), Dense(3 * of.outputs_per_target)], name) for name, of in LOSSES.items()},
    "steep leaky_relu": ([Dense(9, leaky_relu(negative_slope=1.7)), Dense(3)], huber(delta=0.1)),
    "flat elu": ([Dense(9, elu(alpha=0.3)), Dense(3)], "mse"),
    "scale of all": ([Standardize(shift=-2, scale=1 / 255), Dense(3)], "softmax_cross_entropy"),
    "scale of each": ([Standardize(np.linspace(-3, 3, 6), np.linspace(0.1, 3, 6)), Dense(3)], "mse"),
    "scale within": ([Dense(6, "tanh"), Standardize(0.1, np.linspace(0, 2, 6)), Dense(3)], "mse"),
    **{
        f"{name} between": ([Dense(6, "tanh"), make(), Dense(3)], "softmax_cross_entropy")
        for name, make in LAYERS.items()
    },
    **{f"{name} first": ([make(), Dense(3)], "mse") for name, make in LAYERS.items()},
    "deep": ([Dense(20, list(ACTIVATIONS)[i % len(ACTIVATIONS)]) for i in range(12)] + [Dense(3)], "mse"),
    "one output": ([Dense(1)], "binary_cross_entropy"),
}


@pytest.fixture
def inputs(rng):
    """Rows about 0 and far from it, where exponentials overflow or vanish."""
    return rng.normal(size=(300, 6)) * np.repeat([1.0, 10.0, 1000.0], 100)[:, None]


@pytest.mark.parametrize("case", NETWORKS)
def test_onnxruntime_agrees(case, dtype, inputs, tmp_path, rng):
    layers, loss = NETWORKS[case]
    network = Network(6, layers, loss=loss, dtype=dtype)
    for name, view in {**network.views(), **network.statistics}.items():
        if not name.startswith("w"):
            view[...] = rng.uniform(0.2, 2.0, size=view.shape)
    path = exported(network, tmp_path)
    x = inputs.astype(dtype)
    for rows in (slice(0, 1), slice(0, 300), *(slice(i, i + 100) for i in (0, 100, 200))):
        check_agrees(run(path, {"x": x[rows]})["prediction"], network, x[rows])
    assert run(path, {"x": x[:0]})["prediction"].shape == (0, network.output_shape[-1])
    x = x[:100]
    with np.errstate(all="ignore"):  # onnx's reference in numpy, where nothing overflows
        reference = onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})[0]
    check_agrees(reference, network, x)


def test_other_parameters_do_not_agree(dtype, inputs, tmp_path):
    network = Network(6, [Dense(9, "gelu"), Dense(3)], loss="softmax_cross_entropy", dtype=dtype)
    path, x = exported(network, tmp_path), inputs[:100].astype(dtype)
    before = run(path, {"x": x})["prediction"]
    check_agrees(before, network, x)
    network.views()["b1"][0] += 3e-4 if dtype == "float32" else 1e-12
    with pytest.raises(AssertionError):
        check_agrees(before, network, x)


# ---- tables

NUMBERS, CATEGORIES = {"time": np.nan, "age": np.nan, "member": np.nan}, {"city": "", "zip": "", "name=": ""}
TARGETS = {
    "price": ("mse", lambda i: 1e6 + 1e3 * i),
    "kind": ("softmax_cross_entropy", lambda i: ("c\u00e9", "a", "b", "d")[i % 4]),
    "scored": ("mse", lambda i: ("c\u00e9", "a", "b", "d")[i % 4]),
    "good": ("binary_cross_entropy", lambda i: i % 3 == 0),
    "code": ("softmax_cross_entropy", lambda i: (7, -3, 2**40)[i % 3]),
}


@pytest.fixture
def table():
    """Columns of every kind, numbers and categories in turns, with a missing value in each."""
    n = 120
    columns = {
        "time": [1.7e9 + 3600.0 * i for i in range(n)],
        "city": [("Oslo", "R\u00f6me", 'St. "X"')[i % 3] for i in range(n)],
        "age": [20 + i % 37 for i in range(n)],
        "member": [i % 5 == 0 for i in range(n)],
        "zip": [(7, 10, 1234)[i % 3] for i in range(n)],
        "name=": [("x", "y")[i % 2] for i in range(n)],
    }
    for index, values in enumerate(columns.values()):
        values[3 * index] = None
    return pyarrow.table({**columns, **{name: [made(i) for i in range(n)] for name, (_, made) in TARGETS.items()}})


def feed_of(table):
    """The model's inputs for the columns of a table."""
    numbers = {name: table[name].cast(pyarrow.float64()).fill_null(gap) for name, gap in NUMBERS.items()}
    texts = {name: table[name].cast(pyarrow.string()).fill_null(gap) for name, gap in CATEGORIES.items()}
    feed = {name: column.to_numpy()[:, None] for name, column in {**numbers, **texts}.items()}
    return {name: array.astype(np.float64 if name in numbers else object) for name, array in feed.items()}


@pytest.fixture
def trained(request, table, dtype):
    """A network trained to predict a column of the table."""
    loss, _ = TARGETS[request.param]
    others = [name for name in TARGETS if name != request.param]
    task = "regression" if request.param == "price" else "classification"
    made = Preprocessing.of(table, request.param, categorical=["zip"], drop=others, task=task, missing="median")
    layers = [Standardize(0.1, 0.9), Dense(16, "tanh"), Dense(made.n_outputs)]
    network = Network(made.n_features, layers, loss=loss, dtype=dtype)
    network.preprocessing = made
    y = made.targets(table)
    y = y if loss == "softmax_cross_entropy" or made.target.classes is None else np.eye(made.n_outputs)[y]
    network.fit(made.encode(table, dtype=dtype), y, optimizer=fastgd.Adam(0.01), epochs=30)
    return network


def check_numbers(got, expected, network):
    """Differences are measured in standard deviations of the target."""
    assert np.abs(got - expected).max() * network.preprocessing.target.scale <= TOLERANCES[str(network.dtype)]


@pytest.mark.parametrize("trained", TARGETS, indirect=True)
def test_preprocessing_is_included(trained, table, dtype, tmp_path):
    made, path = trained.preprocessing, exported(trained, tmp_path)
    for rows in (slice(0, 1), slice(0, 120)):
        part = table.slice(rows.start, rows.stop)
        results = run(path, feed_of(part))
        X = made.encode(part, dtype=dtype)
        expected, got = made.decode(trained.predict(X)), results.pop("prediction")
        assert got.shape == (rows.stop,)
        if made.target.classes is None:
            assert got.dtype == np.float64
            check_numbers(got, expected, trained)
            assert not results
            continue
        assert got.tolist() == expected.tolist()
        ((name, outputs),) = results.items()
        assert name == ("scores" if made.target.name == "scored" else "probabilities")
        check_agrees(outputs, trained, X)
    if made.target.classes is not None:
        assert len(set(expected.tolist())) == len(made.target.classes)
        kept = {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}
        assert kept == {"classes": list(made.target.classes)}


@pytest.mark.parametrize("trained", ["price"], indirect=True)
def test_unknown_categories(trained, table, dtype, tmp_path):
    made, index = trained.preprocessing, table.column_names.index("city")
    strange = table.set_column(index, "city", pyarrow.array(["Rom"] * table.num_rows))
    with pytest.raises(Exception, match="OneHotEncoder of city.*Unknown Category"):
        run(exported(trained, tmp_path), feed_of(strange))
    got = run(exported(trained, tmp_path, unknown="zeros"), feed_of(strange))["prediction"]
    expected = made.decode(trained.predict(made.encode(strange, unknown="zeros", dtype=dtype)))
    check_numbers(got, expected, trained)
    known = made.decode(trained.predict(made.encode(table, dtype=dtype)))
    assert np.abs(got - known).max() > 1e3


# ---- files and errors


@pytest.mark.parametrize("trained", ["kind"], indirect=True)
def test_an_export_depends_on_the_network_alone_and_leaves_it(trained, table, dtype, tmp_path):
    parameters, epochs = trained.parameters.copy(), trained.epochs
    data = exported(trained, tmp_path).read_bytes()
    trained.save(tmp_path / "m")
    assert exported(fastgd.load(tmp_path / "m")[0], tmp_path).read_bytes() == data
    np.testing.assert_array_equal(trained.parameters, parameters)
    X, y = trained.preprocessing.encode(table), trained.preprocessing.targets(table)
    trained.fit(X, y, epochs=1)
    assert trained.epochs == epochs + 1
    assert exported(trained, tmp_path).read_bytes() != data
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.producer_name, model.producer_version) == ("fastgd", fastgd.__version__)
    assert [opset.version for opset in model.opset_import] == [13, 2]


@pytest.fixture
def squared():
    """A custom activation, removed after the test."""

    @fastgd.custom.activation(derivative=lambda x, slope: 2 * slope * x)
    def squared(x, slope=1.5):
        return slope * x * x

    yield squared
    del ACTIVATIONS["squared"], vars(fastgd.kernels)["squared_forward"]


def test_custom_activations_bring_their_nodes(squared, tmp_path, inputs):
    network = Network(6, [Dense(9, squared(slope=0.5)), Dense(3)], loss="mse", dtype="float64", backend="numpy")
    with pytest.raises(ValueError, match="'activation'.*fastgd.kernels.squared_forward.onnx.*got squared.slope=0.5"):
        exported(network, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="squared_forward: .*expected.*'slope'"):
        fastgd.kernels.squared_forward.onnx(lambda graph, x: x)

    @fastgd.kernels.squared_forward.onnx
    def nodes(graph, x, slope):
        return graph.add("Mul", graph.add("Mul", x, x), slope)

    path = exported(network, tmp_path)
    before = path.read_bytes()
    check_agrees(run(path, {"x": inputs})["prediction"], network, inputs)
    fastgd.kernels.squared_forward.onnx(lambda graph, x, slope: graph.add("Square", x))
    with pytest.raises(onnx.checker.ValidationError, match="Square"):
        exported(network, tmp_path)
    assert path.read_bytes() == before


def test_errors_name_what_has_no_nodes(tmp_path, monkeypatch):
    network = Network(6, [Dense(3)], loss="softmax_cross_entropy")
    monkeypatch.setattr(fastgd.kernels.softmax_forward, "onnx_function", None)
    with pytest.raises(ValueError, match="'loss'.*softmax_forward.*got softmax_cross_entropy"):
        exported(network, tmp_path)
    monkeypatch.delattr(Dense, "onnx")
    with pytest.raises(ValueError, match="'layers'.*got Dense.3, identity"):
        exported(network, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["prediction", "probabilities", "scores"])
def test_columns_have_names_of_their_own(name, tmp_path):
    with pytest.warns(UserWarning, match=f"ONNX.*{name!r}"):  # before the training
        made = Preprocessing.of({name: [1.0, 2.0, 3.0], "y": [0.5, 1.5, 2.5]}, "y")
    network = Network(1, [Dense(1)], loss="mse")
    network.preprocessing = made
    with pytest.raises(ValueError, match=f"'preprocessing'.*'prediction'.*got {name!r}"):
        exported(network, tmp_path)


def test_columns_named_as_parameters_and_nodes(tmp_path):
    names = ["w1", "b1", "constant", "MatMul_4", "x", "IsNaN_1"]
    table = {name: [1.0, 2.0, i + 4.0] for i, name in enumerate(names)}
    made = Preprocessing.of({**table, "y": [0.5, 1.5, 2.5]}, "y")
    network = Network(6, [Dense(1)], loss="mse", dtype="float64")
    network.preprocessing = made
    feed = {name: np.array(values)[:, None] for name, values in table.items()}
    expected = made.decode(network.predict(made.encode(table, dtype="float64")))
    np.testing.assert_allclose(run(exported(network, tmp_path), feed)["prediction"], expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("path", "options", "error", "match"),
    [
        ("no/m.onnx", {}, FileNotFoundError, "'path'.*folder that exists.*no/m.onnx"),
        (".", {}, IsADirectoryError, "'path'.*a file"),
        (3, {}, TypeError, "'path'.*3"),
        ("m.onnx", {"unknown": "zero"}, ValueError, "'unknown'.*did you mean 'zeros'"),
    ],
)
def test_bad_arguments(path, options, error, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=match):
        Network(6, [Dense(3)], loss="mse").to_onnx(path, **options)
    assert not list(tmp_path.iterdir())


def test_a_network_that_is_too_large(tmp_path, monkeypatch):
    network = Network(6, [Dense(3)], loss="mse")
    monkeypatch.setattr(fastgd.onnx, "MOST_BYTES", 83)
    with pytest.raises(ValueError, match="'network': expected at most 83 bytes of parameters.*got 84"):
        exported(network, tmp_path)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    from test_cli import HOUSES, KIND, call

    (tmp_path / "houses.csv").write_text(HOUSES)
    options = {"folder": tmp_path, "monkeypatch": monkeypatch, "capsys": capsys}
    assert call(*KIND, "--epochs", "3", **options)[0] == 0
    code, out, _ = call("export", "kind.safetensors", "kind.onnx", **options)
    assert (code, out) == (0, "ONNX model with inputs ['age', 'city'] written to kind.onnx\n")
    table = fastgd.tables.read("houses.csv")
    feed = {"age": table["age"].cast("float64").fill_null(np.nan), "city": table["city"].fill_null("")}
    results = run("kind.onnx", {name: column.to_numpy()[:, None] for name, column in feed.items()})
    _, out, _ = call("predict", "kind.safetensors", "houses.csv", "--probabilities", **options)
    lines = [line.split(",") for line in out.splitlines()[1:]]
    assert results["prediction"].tolist() == [line[0] for line in lines]
    assert np.abs(results["probabilities"] - np.array([line[1:] for line in lines], float)).max() < 1e-6
    before = (tmp_path / "kind.safetensors").read_bytes()
    code, _, err = call("export", "kind.safetensors", "kind.safetensors", **options)
    assert (code, "argument 'FILE': expected another file than MODEL" in err) == (1, True)
    assert (tmp_path / "kind.safetensors").read_bytes() == before
