"""Tables: from CSV, Parquet and Arrow files to rows of numbers and back, and errors for bad ones."""

import datetime
import json

import numpy as np
import pandas
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

import fastgd
from fastgd import CheckpointError, Dense, Network
from fastgd.tables import Categories, Numbers, Preprocessing, TableError, Target, read

CSV = """age,income,city,member,price
20,1e3,Oslo,true,10
,2e3,Rome,false,30
40,3e3,,true,50
60,,Oslo,true,70
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "houses.csv"
    path.write_text(CSV)
    return path


def test_rows_of_numbers(path):
    table = read(path)
    made = Preprocessing.of(table, "price", task="regression")
    names = ["age", "age (missing)", "income", "income (missing)", "city=Oslo", "city=Rome", "city (missing)", "member"]
    assert made.feature_names == names
    assert (made.n_features, made.n_outputs, made.loss) == (8, 1, "mse")
    X, y = made.encode(table), made.targets(table)
    assert (X.dtype, X.shape) == (np.float32, (4, 8))
    assert X[:, [1, 3, 6]].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    X = X[:, [0, 2, 4, 5, 7]]
    age = np.array([20, 40, 40, 60])  # the mean where it is missing
    expected = (age - 40) / np.std([20, 40, 60])
    np.testing.assert_allclose(X[:, 0], expected, rtol=1e-6, atol=1e-7)
    assert X[3, 1] == pytest.approx(0, abs=1e-7)
    assert X[:, 2:4].tolist() == [[1, 0], [0, 1], [0, 0], [1, 0]]
    np.testing.assert_allclose(X[:, 4], (np.array([1, 0, 1, 1]) - 0.75) / np.std([1, 0, 1, 1]), rtol=1e-6)
    np.testing.assert_allclose(y, (np.array([10, 30, 50, 70]) - 40) / np.std([10, 30, 50, 70]))
    np.testing.assert_allclose(made.decode(y[:, None]), [10, 30, 50, 70])


def test_the_median_may_stand_in(tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n1,1.5\n2,2.5\n9,3.5\n,4.5\n")
    table = read(tmp_path / "t.csv")
    fills = [Preprocessing.of(table, "y", missing=missing).columns[0].fill for missing in ("mean", "median")]
    assert fills == [4.0, 2.0]


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["b", "a", "b"], "auto", ("a", "b")),
        ([True, False, True], "auto", (False, True)),
        ([7, 3, 7], "auto", (3, 7)),
        ([7, 3, 7], "regression", None),
        ([0.5, 1.5, 0.5], "auto", None),
        (list(range(20)), "auto", tuple(range(20))),
        (list(range(21)), "auto", None),
        (list(range(30)), "classification", tuple(range(30))),
        ([1.0, 2.0, 1.0], "classification", (1, 2)),
        ([f"n{i % 35}" for i in range(90)], "auto", tuple(sorted(f"n{i}" for i in range(35)))),
    ],
)
def test_what_the_target_is(values, task, classes):
    table = {"a": np.arange(len(values)), "y": values}
    made = Preprocessing.of(table, "y", task=task)
    assert made.target.classes == classes
    y = made.targets(table)
    if classes:
        assert y.dtype == np.int64
        y = np.eye(len(classes))[y]
    assert made.decode(y.reshape(len(values), -1)).tolist() == (values if classes else pytest.approx(values))


def test_every_format_gives_the_same(path, tmp_path):
    table = read(path)
    expected = Preprocessing.of(table, "price")
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    pyarrow.feather.write_feather(table, str(tmp_path / "t.feather"))
    pyarrow.feather.write_feather(table, str(tmp_path / "t.arrow"), compression="uncompressed")
    (tmp_path / "t.tsv").write_text(CSV.replace(",", "\t"))
    with pyarrow.CompressedOutputStream(str(tmp_path / "t.csv.gz"), "gzip") as out:
        out.write(CSV.encode())
    encoded = table.set_column(2, "city", table["city"].dictionary_encode())
    kinds = [read(tmp_path / f"t.{end}") for end in ("parquet", "feather", "arrow", "tsv", "csv.gz")]
    for other in (*kinds, encoded, table.to_pydict(), table.to_pandas()):
        made = Preprocessing.of(other, "price")
        assert made.config() == expected.config()
        np.testing.assert_array_equal(made.encode(other), expected.encode(table))
    # Empty text is missing, too, in formats that have missing values.
    empty = table.set_column(2, "city", pyarrow.array(["Oslo", "Rome", "", "Oslo"]))
    np.testing.assert_array_equal(expected.encode(empty), expected.encode(table))


def test_categorical_and_dropped_columns(path):
    table = read(path)
    made = Preprocessing.of(table, "price", categorical=["age"], drop=["city", "member"])
    assert made.columns[0] == Categories("age", ("20", "40", "60"), missing=True)
    assert isinstance(made.columns[1], Numbers)
    assert made.encode(table)[:, :4].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_columns_in_another_order_and_more_of_them(path):
    table = read(path)
    made = Preprocessing.of(table, "price")
    other = table.select(["city", "price", "member", "income", "age"]).append_column("more", table["age"])
    np.testing.assert_array_equal(made.encode(other), made.encode(table))
    np.testing.assert_array_equal(made.encode(table.drop_columns(["price"])), made.encode(table))


def test_preprocessing_is_saved_with_the_network(path, tmp_path):
    table = read(path)
    made = Preprocessing.of(table, "price")
    network = Network(made.n_features, [Dense(made.n_outputs)], loss=made.loss)
    network.preprocessing = made
    network.save(tmp_path / "m")
    loaded, _ = fastgd.load(tmp_path / "m")
    assert loaded.preprocessing.config() == made.config()
    assert json.dumps(loaded.preprocessing.config())
    np.testing.assert_array_equal(loaded.preprocessing.encode(table), made.encode(table))
    assert loaded.preprocessing.target == made.target


def test_a_run_with_another_preprocessing_is_not_resumed(path, tmp_path):
    table = read(path)
    for missing in ("mean", "median"):
        made = Preprocessing.of(table, "price", missing=missing, task="regression")
        table = table.set_column(0, "age", pyarrow.array([1, 2, 90, None]))
        network = Network(made.n_features, [Dense(1)], loss="mse")
        network.preprocessing = made
        options = {"epochs": 1, "checkpoint": tmp_path / "m", "resume": True}
        if missing == "mean":
            network.fit(made.encode(table), made.targets(table), **options)
        else:
            with pytest.raises(CheckpointError, match="'preprocessing'"):
                network.fit(made.encode(table), made.targets(table), **options)


BAD = {
    "no rows": ("a,y\n", {}, "t.csv: expected at least 1 row"),
    "nothing": ("", {}, "t.csv: expected a whole .csv file.*Empty"),
    "no column": ("a,y\n1,2\n", {"target": "Y"}, r"t.csv, column 'Y': expected such a column \(target\).*mean 'y'"),
    "no such drop": ("a,y\n1,2\n", {"drop": ["b"]}, r"column 'b': expected such a column \(drop\)"),
    "a name twice": ("a,a,y\n1,2,3\n", {}, "column 'a': expected one column of each name"),
    "fields": ("a,y\n1,2\n1,2,3\n1,2\n", {}, "t.csv, row 2: expected 2 fields as in the header, got 3: '1,2,3'"),
    "text among numbers": ("a,y\n1,1\n2,2\nx,1\n", {}, "column 'a', row 3: expected a number .*categorical.*'x'"),
    "text far down": ("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(200_000)) + "x,1\n", {},
                      "column 'a', row 200001: expected a number.*, got 'x'"),
    "text in the target": ("a,y\n1,1\n2,2\n3,x\n", {}, "column 'y', row 3: expected a number .or the task.*, got 'x'"),
    "names for classes": ("a,y\n" + "".join(f"{i},n{i}\n" for i in range(30)), {},
                          "column 'y': expected classes that come more than once.*30 different ones in 30 rows"),
    "delimiter": ("a;y\n1;2\n", {}, "column 'y': expected such a column.*another delimiter"),
    "one column": ("a\n1\n", {"target": "b"}, r"column 'b': expected such a column.*got columns \['a'\]$"),
    "infinite": ("a,y\n1,1\n-inf,2\n", {}, "column 'a', row 2: expected a finite number, got -inf"),
    "one class": ("a,y\n1,b\n2,b\n", {}, "column 'y': expected at least 2 classes, got only 'b'"),
    "no target": ("a,y\n1,b\n2,\n3,c\n", {}, "column 'y', row 2: expected a value in every row of the target"),
    "no number": ("a,y\n1,1.5\n2,\n3,2.5\n", {}, "column 'y', row 2: expected a value in every row of the target"),
    "no column is left": ("a,b,c,y\n,p,n0,1\n" + "".join(f",p,n{i},2\n" for i in range(1, 300)), {},
                          "beside the target, got none that is used.*missing: 'a'; .*one value: 'b'; .*text.*: 'c'"),
    "large": ("a,y\n1,1\n1e300,2\n", {}, "column 'a': expected numbers up to 1e.150 in size.*--drop.*, got 1e.300"),
    "date of the target": ("a,y\n1,2020-01-01\n2,2020-01-02\n", {}, "column 'y': expected numbers.*date"),
    "nothing beside": ("y\n1\n2\n", {}, "expected a column beside the target"),
    "classes of floats": ("a,y\n1,1.5\n2,2\n", {"task": "classification"}, "column 'y': expected text.*double"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(case, tmp_path):
    text, options, match = BAD[case]
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=match):
        Preprocessing.of(read(path), **{"target": "y", "source": "t.csv", **options})


def test_bad_rows_to_predict(path):
    made = Preprocessing.of(read(path), "price")
    good = {"age": [1, 2], "income": [1.0, 2.0], "city": ["Oslo", "Rome"], "member": [True, False]}
    for change, match in (
        ({"city": ["Oslo", "Rom"]}, "new, column 'city', row 2: expected one of .*got 'Rom'; did you mean 'Rome'"),
        ({"age": ["1", "two"]}, "new, column 'age', row 2: expected a number, got 'two'"),
        ({"income": [1.0, np.inf]}, "new, column 'income', row 2: expected a finite number"),
        ({"age": None}, "new, column 'age': expected such a column"),
    ):
        table = {name: values for name, values in {**good, **change}.items() if values is not None}
        with pytest.raises(TableError, match=match) as caught:
            made.encode(table, source="new")
        assert caught.value.source == "new"
    zeros = made.encode({**good, "city": ["Oslo", "Rom"]}, unknown="zeros")
    assert zeros[:, 4:7].tolist() == [[1, 0, 0], [0, 0, 0]]
    with pytest.raises(TableError, match="new, column 'price', row 2: expected one of the classes.*got 99"):
        made.targets({"price": [10, 99]}, source="new")
    missing = made.encode({**good, "age": [None, 2], "city": [None, "Rome"], "income": [np.nan, 1.0]})
    np.testing.assert_allclose(missing[0, :7], [0, 1, 0, 1, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: read("t.xlsx"), ValueError, "'path'.*csv.*xlsx"),
        (lambda: read("none.csv"), FileNotFoundError, "none.csv"),
        (lambda: Preprocessing.of(3, "y"), TypeError, "'table'.*3"),
        (lambda: Preprocessing.of({"a": [1, 2], "y": [0, 1]}, "y", task="guess"), ValueError, "'task'"),
        (lambda: Preprocessing.of({"a": [1, 2], "y": [0, 1]}, "y", missing="mode"), ValueError, "'missing'"),
        (lambda: Preprocessing((), Target("y", None)).encode({"a": [1]}, unknown="x"), ValueError, "unknown"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    ("name", "content"), [("t.parquet", b"PAR1 no"), ("t.feather", b"x"), ("t.csv", b"a\xff,y\n1\xff,2\n")]
)
def test_files_that_are_something_else(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=name):
        Preprocessing.of(read(tmp_path / name), "y", source=name)


def test_learns_from_a_table(tmp_path, rng):
    """From a table to predictions in the units of its target."""
    n = 600
    age, city = rng.integers(18, 80, n), rng.choice(["Oslo", "Rome"], n)
    price = 1e5 + 2000 * age + np.where(city == "Rome", 5e4, 0)
    table = pyarrow.table({"age": age, "city": city, "price": price})
    made = Preprocessing.of(table, "price")
    network = Network(made.n_features, [Dense(16, "tanh"), Dense(1)], loss=made.loss)
    network.fit(made.encode(table), made.targets(table), optimizer=fastgd.Adam(0.01), epochs=60)
    assert np.abs(made.decode(network.predict(made.encode(table))) - price).mean() < 3e3


def test_columns_of_other_kinds():
    """Dictionary columns are categories, whatever their values; nulls are missing values; numbers that are constant
    where they are trained on become 0."""
    codes = pyarrow.array([5, 7, 5]).dictionary_encode()
    table = pyarrow.table({"a": codes, "b": [0.1, 0.1, None], "c": ["x", "y", "x"], "y": codes})
    made = Preprocessing.of(table, "y")
    assert made.columns[0] == Categories("a", ("5", "7"))
    assert made.target.classes == (5, 7)
    np.testing.assert_allclose(made.encode(table)[:, 2], 0, atol=1e-6)
    nothing = pyarrow.nulls(2)
    X = made.encode({"a": nothing, "b": nothing, "c": nothing})
    np.testing.assert_allclose(X, [[0, 0, 0, 1, 0, 0]] * 2, atol=1e-6)
    target = Preprocessing.of({"a": [1, 2, 3], "y": [0.1, 0.1, 0.1]}, "y").target
    assert (target.scale, target.shift) == (1.0, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"categorical": ["l"], "drop": []}, TableError, "column 'l': expected text or numbers for categories.*list"),
        ({"target": "l", "task": "classification", "drop": []}, TableError, "column 'l': expected text, truth"),
        ({"drop": ["l", "y"]}, ValueError, "'drop'.*target 'y'"),
        ({"categorical": ["y"]}, ValueError, "'categorical'.*target 'y'"),
    ],
)
def test_columns_that_do_not_serve(options, error, match):
    table = pyarrow.table({"l": [[1], [2]], "a": [1, 2], "y": [0, 1]})
    with pytest.raises(error, match=match):
        Preprocessing.of(table, **{"target": "y", "drop": ["l"], **options})


@pytest.mark.parametrize(
    ("name", "value"),
    [("classes", "ab"), ("classes", ["a"]), ("classes", ["a", "a"]), ("classes", ["a", 1]), ("scale", "x")],
)
def test_hostile_descriptions(name, value, tmp_path):
    from test_checkpoint import altered

    made = Preprocessing.of({"a": [1, 2, 3], "y": ["a", "b", "a"]}, "y")
    network = Network(made.n_features, [Dense(made.n_outputs)], loss=made.loss)
    network.preprocessing = made
    network.save(tmp_path / "m")
    altered(tmp_path / "m", lambda content: content["preprocessing"]["target"].update({name: value}))
    with pytest.raises(CheckpointError, match="'preprocessing'"):
        fastgd.load(tmp_path / "m")


def test_text_far_down_makes_text_of_its_own_column_alone(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,kind,y\n" + "".join(f"{i},{i % 5},{i / 2}\n" for i in range(200_000)) + "7,x,7.5\n")
    table = read(path)
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "double"]
    made = Preprocessing.of(table, "y", categorical=["kind"])
    assert (made.n_features, made.loss) == (7, "mse")


def test_the_median_fills_and_the_mean_shifts():
    made = Preprocessing.of({"x": [1.0, 1.0, 10.0, None], "y": [0.5, 1.5, 2.5, 3.5]}, "y", missing="median")
    assert (made.columns[0].fill, made.columns[0].shift) == (1.0, 4.0)


def test_errors_name_text_in_an_integer_target(tmp_path):
    made = Preprocessing.of({"a": [1.0, 2.0, 3.0], "y": [0, 1, 1]}, "y")
    (tmp_path / "t.csv").write_text("a,y\n1,0\n2,x\n")
    with pytest.raises(TableError, match="column 'y', row 2: expected a number, got 'x'"):
        made.targets(read(tmp_path / "t.csv"))


def test_errors_name_numbers_that_overflow_when_standardised(path):
    made = Preprocessing.of(read(path), "price")
    good = {"age": [1, 2], "income": [1.0, 1e60], "city": ["Oslo", "Rome"], "member": [True, False]}
    with pytest.raises(TableError, match="'income', row 2: expected numbers that float32 holds.*1e.60"):
        made.encode(good)
    with pytest.raises(ValueError, match="'rows'.*index of some of 4 rows"):
        Preprocessing.of(read(path), "price", rows=[9])


def test_delimiters(tmp_path):
    (tmp_path / "t.csv").write_text("a;y\n1,5;2\n")
    (tmp_path / "t.tsv").write_text("a\ty\n1\t2\n")
    assert read(tmp_path / "t.csv", delimiter=";").to_pydict() == {"a": ["1,5"], "y": [2]}
    assert read(tmp_path / "t.tsv").to_pydict() == {"a": [1], "y": [2]}
    with pytest.raises(ValueError, match="'delimiter'.*one ASCII character.*';;'"):
        read(tmp_path / "t.csv", delimiter=";;")


def test_statistics_are_of_the_given_rows():
    table = {"x": [1.0, 3.0, None, 1000.0], "c": ["a", "a", "a", "b"], "y": [0.5, 1.5, 2.5, 99.5]}
    part, all_rows = (Preprocessing.of(table, "y", rows=rows) for rows in ([0, 1], None))
    assert part.columns[0] == fastgd.tables.Numbers("x", 2.0, 2.0, 1.0)
    assert part.columns[1].values == ("a", "b")
    assert (part.target.shift, part.target.scale) == (1.0, 2.0)
    assert all_rows.columns[0] != part.columns[0]
    assert all_rows.target != part.target


def test_text_that_looks_like_numbers_stays_text(tmp_path):
    """Also in a file in which every value looks like a number."""
    train, new = tmp_path / "train.csv", tmp_path / "new.csv"
    train.write_text("code,zip,y\n007,010,1\n7,10,2\nA1,010,x\nB1,10,x\n")
    new.write_text("code,zip,y\n007,010,2\n007,10,1\n")
    made = Preprocessing.of(read(train, text=["zip"]), "y", categorical=["zip"], task="classification")
    assert made.text == ["code", "zip", "y"]
    table = read(new, text=made.text)
    assert made.feature_names == ["code=007", "code=7", "code=A1", "code=B1", "zip=010", "zip=10"]
    assert made.encode(table).tolist() == [[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]]
    assert made.decode(np.eye(3)[made.targets(table)]).tolist() == ["2", "1"]


def test_columns_that_are_no_values_are_named():
    """For each such pyarrow type, a TableError names the column."""
    two = pyarrow.array([1, 2])
    columns = [
        pyarrow.array([{"a": 1}, {"a": 2}]), pyarrow.array([[1], [2]]),
        pyarrow.array([[1], [2]], pyarrow.list_(two.type, 1)),
        pyarrow.compute.run_end_encode(two), pyarrow.array([[("a", 1)], []], pyarrow.map_(pyarrow.string(), two.type)),
        pyarrow.UnionArray.from_sparse(pyarrow.array([0, 0], pyarrow.int8()), [two]),
    ]  # fmt: skip
    made = Preprocessing.of({"c": ["u", "v"], "y": ["s", "t"]}, "y")
    for column in columns:
        table = pyarrow.table({"c": column, "y": column, "x": two})
        for categorical in ([], ["c"]):
            with pytest.raises(TableError, match="column 'c': expected"):
                Preprocessing.of(table, "x", categorical=categorical)
        with pytest.raises(TableError, match="column 'y': expected"):
            Preprocessing.of(table.drop_columns("c"), "y")
        with pytest.raises(TableError, match="column 'c': expected"):
            made.encode(table)
        with pytest.raises(TableError, match="column 'y': expected"):
            made.targets(table)
    for values in (np.array([1, "2"], object), 7, np.ones((2, 2)), [1, "2"]):
        with pytest.raises(TableError, match="column 'c': expected (values of one kind|a list)"):
            made.encode({"c": values})
    day, time = datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 10)
    for values, match in (("uv", "'c': expected a list or an array of values, got 'uv'"),
                          ([10**30, 1], "'c': expected values of one kind, got .*too large"),
                          ([day, time], "'c': expected values of one kind, got dates with a time among others without"),
                          (["u"], "'c': expected 2 rows, as in 'd', got 1")):  # fmt: skip
        with pytest.raises(TableError, match=match):
            made.encode({"d": [1, 2], "c": values})
    with pytest.raises(TableError, match="at least 1 row"):
        made.encode([])
    for values in ([day, day], [time, time], [time.time(), time.time()]):
        expected = "column 'y': expected numbers, text or truth values for a target, got"
        with pytest.raises(TableError, match=expected):
            Preprocessing.of({"c": ["u", "v"], "y": values}, "y")
    mixed = pandas.DataFrame({"y": [1, 2], "c": np.array([1, "2"], object)})
    with pytest.raises(TableError, match="column 'c': expected values of one kind"):
        Preprocessing.of(mixed, "y")
    with pytest.raises(TypeError, match="'table': expected a pyarrow.Table, a DataFrame, a dict"):
        made.encode(mixed["y"])
