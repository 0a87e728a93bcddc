"""Text files of tables: types of the first table, long rows, an index of pandas, damaged files."""

import gzip
import itertools
import json
import os
import warnings

import numpy as np
import pandas
import pyarrow
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

import fastgd
from fastgd import Dense, Network, onnx
from fastgd.cli import parser as cli
from fastgd.tables import Categories, Preprocessing, TableError, read


@pytest.fixture
def file(tmp_path):
    """A function that writes text to a CSV file and reads it as a table."""
    numbers = itertools.count()

    def read_text(content, **options):
        path = tmp_path / f"{next(numbers)}.csv"
        path.write_text(content, encoding="utf-8")
        return read(path, **options)

    return read_text


# ---- the types of the first table count

# The column of the first table, the column of a new file, and the index of its values in the first (-1: missing).
WRITTEN = {
    "codes": (["007", "7", "A1", "B1"], ["007", "7", "007"], [0, 1, 0]),
    "codes alone": (["007", "7", "A1", "B1"], ["007"], [0]),
    "numbers alone": (["007", "7", "A1", "B1"], ["7"], [1]),
    "versions": (["1.1", "1.10", "2.0b", "3c"], ["1.10", "1.1"], [1, 0]),
    "one version": (["1.1", "1.10", "2.0b", "3c"], ["1.10", "1.10"], [1, 1]),
    "plus": (["+7", "7", "x", "z"], ["7", "+7"], [1, 0]),
    "truth": (["True", "False", "maybe"], ["False", "True"], [1, 0]),
    "dates": (["2020-01-01", "never", "soon"], ["2020-01-01"], [0]),
    "times": (["2020-01-01T10:00", "12:30", "never"], ["2020-01-01T10:00"], [0]),
    "blanks": (["a", "b", "1"], ["1", "", "NA"], [2, -1, -1]),
    "blanks around": (["Oslo", " Oslo", "x"], [" Oslo", "Oslo"], [1, 0]),
    "blanks around codes": (["007", "7", "x", "z"], [" 007", "7 "], [0, 1]),
    "large": (["9007199254740993", "9007199254740992", "a", "b"], ["9007199254740993"], [0]),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_categories_are_the_text_of_the_file(case, file):
    values, new, expected = WRITTEN[case]
    made = Preprocessing.of(file("c,y\n" + "".join(f"{v},{i % 2}\n" for i, v in enumerate(values))), "y")
    table = file("c,d\n" + "".join(f"{v},0\n" for v in new))
    order = sorted(values)
    onehot = np.vstack([np.eye(len(values))[[order.index(v) for v in values]], np.zeros(len(values))])
    np.testing.assert_array_equal(made.encode(table), onehot[expected])
    np.testing.assert_array_equal(made.encode(table.slice(len(new) - 1).select(["c"])), onehot[expected[-1:]])
    twice = pyarrow.concat_tables([table, table])
    np.testing.assert_array_equal(made.encode(twice), onehot[expected + expected])


def test_copied_rows_are_refused_where_their_text_would_count(file):
    made = Preprocessing.of(file("c,y\n007,0\n7,1\nA1,1\nB1,0\n"), "y")
    table = file("c\n007\n7\n")
    for copy in (table.filter(pyarrow.array([True, False])), table.take([0])):
        with pytest.raises(TableError, match="column 'c': expected text as written in the file"):
            made.encode(copy)
    for values in ([7], [7.0]):
        with pytest.raises(TableError, match="'007' and '7' are different categories"):
            made.encode({"c": values})
    copy = file("zip,y\n007,0\n7,1\n").take([0, 1])
    with pytest.raises(TableError, match="column 'zip': expected text as written"):
        Preprocessing.of(copy, "y", categorical="zip")


def test_copied_rows_are_refused_where_a_code_is_among_numbers(file):
    """pyarrow reads 007 as 7, which is another category."""
    made = Preprocessing.of(file("zip,y\n007,0\n7,1\n12,1\n"), "y", categorical="zip")
    table = file("zip\n007\n7\n12\n")
    assert made.encode(table).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    copies = [table.filter(pyarrow.array([True] * 3)), table.take([0, 1]), table.sort_by("zip")]
    for copy in [*copies, pyarrow.ipc.open_stream(_as_stream(table)).read_all()]:
        with pytest.raises(TableError, match="column 'zip': expected text as written in the file"):
            made.encode(copy)
    for values in ([7], pandas.Series([12, 7])):
        with pytest.raises(TableError, match="'007' and '7' are different categories"):
            made.encode({"zip": values})
    assert made.encode({"zip": [12, None]}).tolist() == [[0, 1, 0], [0, 0, 0]]
    with pytest.raises(TableError, match=r"column 'y', row 2: expected one of the classes \[0, 1\], got '01'"):
        made.targets(file("y,zip\n1,7\n01,7\n"))


def _as_stream(table):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_categories_of_floating_point_numbers(dtype):
    """NaN is missing, as it is in a column of numbers; 0 and -0 are equal."""
    values = np.array([0, -0.0, 1, np.nan], dtype)
    rows = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    for column in (values, pyarrow.array(values), pyarrow.array(values[[1, 0, 2, 3]]).dictionary_encode()):
        made = Preprocessing.of({"v": column, "y": range(4)}, "y", categorical="v")
        assert made.columns == (Categories("v", ("0", "1"), missing=True),)
        assert made.encode({"v": column}).tolist() == rows
        assert made.encode({"v": values}).tolist() == rows
        assert made.encode({"v": ["0", "-0.0", "1", ""]}).tolist() == rows
    made = Preprocessing.of({"x": range(4), "y": ["0", "1", "a", "b"]}, "y", task="classification")
    with pytest.raises(TableError, match="column 'y', row 4: expected a value in every row"):
        made.targets({"y": values})


def test_memory_of_text_ends_with_the_table(file):
    from fastgd.tables import text as table_text

    before = len(table_text._by_address)
    table = file("a,b\n007,1.50\n2,x\n")
    part = table.select(["a"])
    del table
    assert len(table_text._by_address) == before + 1
    del part
    assert len(table_text._by_address) == before


def test_categories_of_numbers_are_numbers_however_they_are_written(file):
    """An integer column becomes one of floating-point numbers where a value is missing."""
    made = Preprocessing.of(file("v,y\n1,0\n2,1\n3,1\n"), "y", categorical="v")
    assert made.columns[0].by_value
    tables = (
        file("v,w\n1.0,0\n,0\n2.0,0\n"), {"v": [1.0, None, 2.0]}, {"v": [1, None, 2]}, {"v": ["1", None, "2.00"]},
        pandas.DataFrame({"v": [1.0, np.nan, 2.0]}), file("v,w\n1,0\n,0\n2,0\n", text=["v"]),
    )  # fmt: skip
    for table in tables:
        assert made.encode(table).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    with pytest.raises(TableError, match=r"'v', row 1.*got '1.5'"):
        made.encode(file("v\n1.5\n"))
    back = Preprocessing.from_config(json.loads(json.dumps(made.config())))
    assert back.encode(tables[0]).tolist() == made.encode(tables[0]).tolist()
    frame = Preprocessing.of(pandas.DataFrame({"v": [1.0, 2.0, np.nan], "y": [0, 1, 1]}), "y", categorical="v")
    assert frame.encode(file("v\n1\n2.0\n")).tolist() == [[1, 0, 0], [0, 1, 0]]
    truth = Preprocessing.of({"v": [True, False], "y": [0, 1]}, "y", categorical="v")
    assert truth.encode(file("v\nTrue\nFALSE\n")).tolist() == [[0, 1], [1, 0]]


def test_a_word_for_missing_values_may_be_a_category(file):
    made = Preprocessing.of({"v": ["NA", "EU"], "y": [0, 1]}, "y")
    assert made.encode(file("v,w\nNA,1\nEU,1\n,1\n")).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert made.encode(file("v\nNA\nNA\n")).tolist() == [[0, 1], [0, 1]]
    without = Preprocessing.of({"v": ["AF", "EU"], "y": [0, 1]}, "y")
    assert without.encode(file("v\nNA\nEU\n")).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("values", "new", "labels", "classes"),
    [
        (["01", "02", "01"], ["02", "01"], [1, 0], ("01", "02")),
        (["01", "02", "x", "z"], ["02", "01"], [1, 0], ("01", "02", "x", "z")),
        (["1", "2", "1"], ["1.0", "2.0"], [0, 1], (1, 2)),
        (["true", "false"], ["False", "True"], [0, 1], (False, True)),
        (["1.1", "1.10", "a", "b"], ["1.10", "1.1"], [1, 0], ("1.1", "1.10", "a", "b")),
    ],
)
def test_classes_are_those_of_the_first_table(values, new, labels, classes, file):
    made = Preprocessing.of(file("a,y\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values))), "y")
    assert made.target.classes == classes
    assert made.targets(file("y,b\n" + "".join(f"{v},0\n" for v in new))).tolist() == labels
    assert made.decode(np.eye(len(classes))).tolist() == list(classes)


def test_the_example_of_the_readme_and_the_command_line_agree(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("code,y\n" + "007,10\n7,20\nA1,30\nB1,40\n" * 20)
    (tmp_path / "new.csv").write_text("code\n007\n7\n007\n")
    command = ["train", "train.csv", "--target", "y", "--task", "regression", "--epochs", "60", "--quiet"]
    assert cli.main([*command, "--validation", "0"]) == 0
    network, _ = fastgd.load("train.safetensors")
    made = network.preprocessing
    values = made.decode(network.predict(made.encode(fastgd.tables.read("new.csv"))))
    capsys.readouterr()
    assert cli.main(["predict", "train.safetensors", "new.csv"]) == 0
    np.testing.assert_allclose(np.array(capsys.readouterr().out.split()[1:], float), values)
    assert values[0] == values[2] != values[1]


# ---- long rows, many columns


def test_line_ends_in_quotes_below_and_above_a_block(file):
    for rows in (10, 60_000):
        table = file("a,b,y\n" + "".join(f'{i},"line\nsecond, ""{i}""\n",{i % 2}\n' for i in range(rows)))
        assert table.num_rows == rows
        assert table["b"][rows - 1].as_py() == f'line\nsecond, "{rows - 1}"\n'
        assert table["a"].to_pylist() == list(range(rows))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_fields_and_headers_longer_than_a_block(end, tmp_path):
    long, header = "x" * 3_000_000, [f"c{i}{'x' * 3000}" for i in range(900)]
    (tmp_path / "field.csv").write_text(f'a,y{end}1,2{end}"{long}",1{end}', newline="")
    assert read(tmp_path / "field.csv")["a"].to_pylist() == ["1", long]
    (tmp_path / "header.csv").write_text(",".join(header) + end + ",".join("1" * 900) + end, newline="")
    assert read(tmp_path / "header.csv").column_names == header
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((tmp_path / "field.csv").read_bytes()))
    assert read(tmp_path / "t.csv.gz")["a"].to_pylist() == ["1", long]


def test_types_that_show_late(file):
    assert file("a\n" + "1\n" * 600_000 + "1.5\n")["a"].type == pyarrow.float64()
    assert file("a,b\n" + ",1\n" * 600_000 + "x,1\n")["a"].type == pyarrow.string()


def test_names_of_nodes_take_time_in_proportion():
    """Ten thousand values request the same name."""
    graph = onnx.Graph(Network(2, [Dense(1)], loss="mse"))
    names = [graph._free("constant") for _ in range(10_000)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 20


# ---- an index, and names


def prepared(table, *arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = Preprocessing.of(table, *arguments, **options)
    return made, [str(warning.message) for warning in caught]


INDICES = {
    "levels": lambda f: f.set_index(pandas.Index([5, 3, 9, 1])),
    "named": lambda f: f.set_index(pandas.Index([5, 3, 9, 1], name="id")),
    "two": lambda f: f.set_index([pandas.Index([5, 3, 9, 1], name="id"), pandas.Index(list("abcd"))]),
    "none": lambda f: f,
}


@pytest.mark.parametrize("case", INDICES)
@pytest.mark.parametrize("end", ["parquet", "feather"])
def test_an_index_is_left_out_with_one_warning(case, end, tmp_path):
    frame, path = (
        INDICES[case](pandas.DataFrame({"a": [1.0, 2.0, 4.0, 7.0], "y": [0.5, 1.5, 2.5, 3.5]})),
        tmp_path / f"t.{end}",
    )
    if end == "parquet":
        frame.to_parquet(path)
    else:
        pyarrow.feather.write_feather(pyarrow.Table.from_pandas(frame), str(path))
    table = read(path)
    made, notes = prepared(table, "y")
    assert made.feature_names == ["a"]
    index = [name for name in table.column_names if name not in ("a", "y")]
    assert len(notes) == bool(index)
    assert all(repr(name) in notes[0] for name in index)
    np.testing.assert_array_equal(made.encode(table), made.encode(table.select(["a"])))
    assert prepared(table, "y", drop=index)[1] == []
    for name in index[:1]:
        assert name in [column.name for column in prepared(table, "y", categorical=name)[0].columns]


@pytest.mark.parametrize("header", ["", "Unnamed: 0", " "])
def test_the_first_column_of_to_csv_is_an_index(header, file):
    made, notes = prepared(file(f"{header},a,y\n0,1,2.5\n1,2,3.5\n2,5,3.5\n"), "y")
    assert made.feature_names == ["a"]
    assert len(notes) == 1
    assert repr(header) in notes[0]
    np.testing.assert_allclose(made.encode(file("a\n2\n")), made.encode(file(",a\n7,2\n")))


def test_the_command_line_reports_an_index(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(",a,y\n" + "".join(f"{i},{i % 7},{i % 7 / 2}\n" for i in range(40)))
    assert cli.main(["train", "t.csv", "--target", "y", "--epochs", "30", "--batch-size", "8", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out.count("left out as the index of a DataFrame: ''") == 1
    assert err == ""
    assert cli.main(["export", "t.safetensors", "t.onnx"]) == 0


def test_names_that_do_not_serve(file):
    with pytest.raises(TableError, match="column '': expected a name for each column"):
        Preprocessing.of(file("a,,y\n1,2,3\n2,3,4\n"), "y")
    assert Preprocessing.of(file("a,,y\n1,2,0.5\n2,3,4.5\n"), "y", drop=[""]).feature_names == ["a"]
    for table in ({"a\udc80": [1, 2], "y": [0, 1]}, {"a": ["\udc80", "b"], "y": [0, 1]}, {"a": [1], "y": [0, 1]}):
        with pytest.raises(TableError):
            Preprocessing.of(table, "y")
    with pytest.raises(TableError, match="column 'a'.*one column of each name"):
        Preprocessing.of(pandas.DataFrame([[1, 2, 3]], columns=["a", "a", "y"]), "y")
    with pytest.raises(TableError, match="column '1'.*one column of each name"):
        Preprocessing.of(pandas.DataFrame([[1, 2, 3]], columns=["1", 1, "y"]), "y")
    with pytest.raises(TableError, match=r"did you mean '\\ufeffa'"):
        Preprocessing.of({"\ufeffa": [1, 2], "y": [0, 1]}, "y", drop="a")


def test_names_that_are_no_text():
    frame = pandas.DataFrame({0: [1.0, 2.0], 1: [0.5, 1.5], ("b", 2): [5.0, 6.0]})
    made = Preprocessing.of(frame, 1)
    assert made.feature_names == ["0", "('b', 2)"]
    np.testing.assert_array_equal(made.encode(frame), made.encode({"0": [1.0, 2.0], "('b', 2)": [5.0, 6.0]}))
    assert Preprocessing.of({0: [1.0, 2.0], 1: [0.5, 1.5]}, 1).feature_names == ["0"]
    levels = pandas.DataFrame([[1.0, 2.0], [2.0, 3.0]], columns=pandas.MultiIndex.from_tuples([("a", "b"), ("a", "c")]))
    assert Preprocessing.of(levels, ("a", "c"), task="regression").feature_names == ["('a', 'b')"]


def test_names_with_commas_and_blanks_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text('"a, b", c,d,y\n' + "".join(f"{i},{i % 3},{i % 5},{i / 2}\n" for i in range(40)))
    command = ["train", "t.csv", "--target", "y", "--epochs", "1", "--quiet", "--overwrite"]
    for drop, names in (('"a, b",d', [" c"]), (" c, d", ["a, b"]), ('"a, b", d', [" c"])):
        assert cli.main([*command, "--drop", drop]) == 0
        assert [column.name for column in fastgd.load("t.safetensors")[0].preprocessing.columns] == names
    assert cli.main(["predict", "t.safetensors", "t.csv", "--keep", '"a, b", c', "--output", "out.csv"]) == 0
    assert (tmp_path / "out.csv").read_text().startswith('"a, b", c,y\n')
    capsys.readouterr()


def test_names_may_be_given_by_an_iterator():
    table = {"a": [1, 2, 3], "b": [1, 5, 3], "c": [1, 2, 2], "y": [0.5, 1.5, 2.5]}
    made = Preprocessing.of(table, "y", drop=(name for name in ["a"]), categorical=iter(["c"]))
    assert made.feature_names == ["b", "c=1", "c=2"]


@pytest.mark.parametrize("name", ["categorical", "drop", "na_values"])
def test_what_is_no_list_of_names(name, tmp_path):
    for given in (5, None):
        with pytest.raises(TypeError, match=f"'{name}': expected a text, or a list of texts, got {given}"):
            Preprocessing.of({"a": [1, 2, 3], "y": [0.5, 1.5, 2.5]}, "y", **{name: given})
    with pytest.raises(TypeError, match="'text': expected a text, or a list of texts, got 5"):
        fastgd.tables.read(tmp_path / "t.csv", text=5)


def test_text_may_be_one_name(file):
    assert file("zip,z\n007,1\n", text="zip").to_pydict() == {"zip": ["007"], "z": [1]}


# ---- files that are not tables


@pytest.mark.parametrize("end", ["csv", "csv.gz", "parquet", "feather", "npz"])
def test_only_regular_files_are_read(end, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(f"pipe.{end}")
    os.mkdir(f"folder.{end}")
    os.symlink("/dev/zero", f"zero.{end}")
    for name, what in (("pipe", "a pipe"), ("folder", "a folder"), ("zero", "a device")):
        assert cli.main(["train", f"{name}.{end}", "--target", "y"]) == 1
        assert f"{name}.{end}: expected a regular file, got {what}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The contents of small files, by name."""
    folder = tmp_path_factory.mktemp("whole")
    table = pyarrow.table({
        "n": [1.5, 2.5, None, 4.0] * 5, "c": ["a", "bb", "ccc", None] * 5, "b": [True, False, None, True] * 5,
        "d": pyarrow.array(["x", "y", "x", None] * 5).dictionary_encode(), "y": [0, 1, 0, 1] * 5,
    })  # fmt: skip
    pyarrow.parquet.write_table(table, folder / "t.parquet")
    pyarrow.feather.write_feather(table, str(folder / "t.feather"))
    pyarrow.feather.write_feather(table, str(folder / "t.arrow"), compression="uncompressed")
    pyarrow.csv.write_csv(table.drop_columns(["d"]), folder / "t.csv")
    (folder / "t.csv.gz").write_bytes(gzip.compress((folder / "t.csv").read_bytes()))
    np.savez_compressed(folder / "t.npz", X=np.arange(60.0).reshape(20, 3), y=np.arange(20) % 2)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.arrow", "t.csv", "t.csv.gz", "t.npz"])
def test_damaged_files_are_data_or_an_error_that_names_them(name, whole, tmp_path, monkeypatch, rng, capsys):
    monkeypatch.chdir(tmp_path)
    failed = 0
    for i in range(60):
        data = bytearray(whole[name])
        if i % 3 == 0:
            data = data[: rng.integers(len(data))]
        for _ in range(i % 4):
            if data:
                data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / name).write_bytes(data)
        code = cli.main(["train", name, "--target", "y", "--epochs", "0", "--quiet", "--overwrite", "--save", "m"])
        err = capsys.readouterr().err
        failed += code
        assert code == 0 or (code == 1 and err.count("\n") == 1 and (name in err or "argument" in err)), err
    assert failed > 10


def test_errors_name_rows_that_are_not_utf_8(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,y\n1,2\n\xff,\xfe,3\n")
    with pytest.raises(TableError, match="row 2: expected 2 fields as in the header, got 3"):
        read(tmp_path / "t.csv")


def test_hostile_categories():
    config = Preprocessing.of({"a": ["x", "y"], "y": [0.5, 1.5]}, "y").config()
    config["columns"][0]["by_value"] = "yes"
    with pytest.raises(TypeError, match="'by_value'"):
        Preprocessing.from_config(config)
    config["columns"][0]["by_value"] = False
    for wrong in ("xy", ["x", "x"], ["x", 1], None, [["x"]]):
        columns = [{**config["columns"][0], "values": wrong}]
        for change, name in (({"columns": columns}, "values"), ({"na_values": wrong}, "na_values")):
            with pytest.raises(ValueError, match=f"'{name}': expected a list of different texts"):
                Preprocessing.from_config({**config, **change})
    twice = Preprocessing.of({"a": ["x", "y"], "y": [0.5, 1.5]}, "y", na_values=["?", "?"])
    assert Preprocessing.from_config(twice.config()).na_values == ("?",)
    assert Categories("a", ("x",)) == Categories("a", ("x",), by_value=True)  # equality ignores by_value


@pytest.mark.parametrize("end", [".csv", ".csv.gz", ".parquet", ".feather"])
def test_pyarrow_reads_files_of_its_own(end, tmp_path, monkeypatch):
    """Its threads may read on after an error; with a Python file, they would crash the process if the interpreter exits
    meanwhile."""
    path = str(tmp_path / f"data{end}")
    table, opened = pyarrow.table({"a": [1.0, 2.0]}), []
    if end.startswith(".csv"):
        pyarrow.csv.write_csv(table, path)
        with open(path, "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(gzip.compress(data) if end == ".csv.gz" else data)
    else:
        {".parquet": pyarrow.parquet.write_table, ".feather": pyarrow.feather.write_feather}[end](table, path)
    for module, name in (("csv", "read_csv"), ("parquet", "read_table"), ("feather", "read_table")):
        read_it = getattr(getattr(pyarrow, module), name)
        watch = lambda file, *more, read_it=read_it, **options: opened.append(file) or read_it(file, *more, **options)  # noqa: E731
        monkeypatch.setattr(getattr(pyarrow, module), name, watch)
    unpacked = pyarrow.CompressedInputStream
    monkeypatch.setattr(
        pyarrow, "CompressedInputStream", lambda file, kind: opened.append(file) or unpacked(file, kind)
    )
    assert read(path).column("a").to_pylist() == [1, 2]
    assert opened
    for file in opened:
        assert isinstance(file, pyarrow.NativeFile)
        assert not isinstance(file, pyarrow.PythonFile)


def test_a_file_that_is_replaced_while_it_is_opened(tmp_path):
    from fastgd.tables.errors import native_file

    path = str(tmp_path / "data.csv")
    for content in ("a\n1\n", "a\n2\n"):
        with open(path + ".new", "w") as file:
            file.write(content)
        if os.path.exists(path):
            with open(path, "rb") as opened:
                os.replace(path + ".new", path)
                with pytest.raises(TableError, match="expected a file that does not change"), native_file(path, opened):
                    pass
        else:
            os.replace(path + ".new", path)


def test_text_in_another_encoding_is_named_by_its_row(tmp_path):
    path = tmp_path / "latin1.csv"
    path.write_bytes("x,town,y\n1,Köln,0\n2,Rom,1\n".encode("latin-1"))
    table = read(path)
    expected = r"column 'town', row 1: expected text in UTF-8, got b'K\\xf6ln'"
    for categorical in ([], ["town"]):
        with pytest.raises(TableError, match=expected):
            Preprocessing.of(table, "y", categorical=categorical)
    with pytest.raises(TableError, match=expected):
        Preprocessing.of(table, "town")
    made = Preprocessing.of({"x": [1, 2], "town": ["Rom", "Bonn"], "y": [0, 1]}, "y")
    with pytest.raises(TableError, match=expected):
        made.encode(table)
    assert Preprocessing.of(table, "y", drop=["town"]).n_features == 1


def test_index_of_several_levels_without_names(tmp_path):
    path = tmp_path / "levels.csv"
    frame = pandas.DataFrame({"a": [1.0, 2.0], "y": [0, 1]}, index=[[1, 2], [3, 4]])
    frame.to_csv(path)
    back = pandas.read_csv(path)
    assert list(back.columns[:2]) == ["Unnamed: 0", "Unnamed: 1"]
    back.to_csv(tmp_path / "again.csv")
    for table, names in (
        (back, "'Unnamed: 0', 'Unnamed: 1'"),
        (read(tmp_path / "again.csv"), "'', 'Unnamed: 0', 'Unnamed: 1'"),
    ):
        with pytest.warns(UserWarning, match=f"left out as the index of a DataFrame: {names}"):
            made = Preprocessing.of(table, "y")
        assert made.feature_names == ["a"]
    middle = pandas.DataFrame({"a": [1.0, 2.0], "Unnamed: 1": [3.0, 5.0], "y": [0, 1]})
    assert Preprocessing.of(middle, "y").feature_names == ["a", "Unnamed: 1"]
