"""Tables as they come: dates, rare categories, missing values, columns that are left out, rows from anywhere."""

import datetime
import json
import math
import pickle
import subprocess
import sys
import warnings

import numpy as np
import onnxruntime
import pandas
import polars
import pyarrow
import pytest

import fastgd
from fastgd import Dense, Network
from fastgd.cli import parser as cli
from fastgd.tables import Categories, Dates, Numbers, Preprocessing, TableError, read

DAY = 86400
Y = [0.5, 1.5, 2.5, 3.5]


def quietly(table, target="y", **options):
    """`Preprocessing.of`, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = Preprocessing.of(table, target, **options)
    return made, [str(warning.message) for warning in caught]


def from_csv(tmp_path, text, **options):
    (tmp_path / "t.csv").write_text(text)
    return read(tmp_path / "t.csv", **options)


# ---- dates


def expected_features(times, reference):
    """The features of dates with times, by the formulas of `Dates` in plain Python. reference: the training times."""
    days = [(time - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1) for time in reference]
    rows = []
    for time in times:
        day = (time - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)
        season, clock = 2 * math.pi * day / 365.2425, 2 * math.pi * (time.hour + time.minute / 60) / 24
        weekday = [float(i == time.weekday()) for i in range(7)]
        of_year = [wave(k * season) for k in range(1, 11) for wave in (math.sin, math.cos)]
        of_day = [wave(k * clock) for k in range(1, 5) for wave in (math.sin, math.cos)]
        rows.append([(day - np.mean(days)) / np.std(days), *of_year, *weekday, *of_day])
    return rows


TIMES = [datetime.datetime(*fields) for fields in
         ((2013, 1, 1, 5, 15), (2013, 2, 28, 23, 59), (2012, 2, 29, 0, 0), (1969, 7, 20, 20, 17))]  # fmt: skip
WRITTEN = {
    "ISO with T": lambda time: time.isoformat(),
    "ISO with a blank": lambda time: str(time),
    "a fraction": lambda time: f"{time}.000",
    "UTC": lambda time: f"{time.isoformat()}Z",
    "a zone": lambda time: f"{(time + datetime.timedelta(hours=2)).isoformat()}+02:00",
    "slashes": lambda time: time.strftime("%Y/%m/%d %H:%M"),
    "month first": lambda time: f"{time.month}/{time.day}/{time.year} {time:%I:%M %p}",
    "points": lambda time: time.strftime("%d.%m.%Y %H:%M:%S"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_dates_with_times(case, tmp_path):
    """However they are written, in files and in tables of text."""
    text = [WRITTEN[case](time) for time in TIMES]
    table = from_csv(tmp_path, "t,y\n" + "".join(f"{t},{y}\n" for t, y in zip(text, Y, strict=True)))
    for one in (table, {"t": text, "y": Y}):
        made = Preprocessing.of(one, "y")
        assert (made.columns[0].has_date, made.columns[0].has_time) == (True, True)
        X = made.encode(one, dtype="float64")
        np.testing.assert_allclose(X, expected_features(TIMES, TIMES), rtol=0, atol=1e-12)
        names = ["t (days)", "t (season sine 1)", "t (season cosine 1)", "t (season sine 2)"]
        assert (made.feature_names[:4], made.feature_names[21]) == (names, "t (Monday)")
        assert len(made.feature_names) == made.n_features == 36
        for i, t in enumerate(text):
            np.testing.assert_allclose(made.encode_row({"t": t}, "float64"), X[i : i + 1], rtol=0, atol=1e-15)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_of_frames(unit):
    text = Preprocessing.of({"t": list(map(str, TIMES)), "y": Y}, "y")
    frame = pandas.DataFrame({"t": pandas.to_datetime(TIMES).astype(f"datetime64[{unit}]"), "y": Y})
    zoned = frame.assign(t=frame["t"].dt.tz_localize("UTC").dt.tz_convert("America/New_York"))
    tables = [frame, zoned, {"t": TIMES, "y": Y}, {"t": np.array(TIMES, f"datetime64[{unit}]"), "y": Y}]
    tables += [polars.DataFrame({"t": TIMES, "y": Y})]
    for table in tables:
        assert Preprocessing.of(table, "y").config() == text.config()
        np.testing.assert_array_equal(text.encode(table), text.encode({"t": list(map(str, TIMES))}))


def test_a_time_has_the_same_bits_wherever_it_comes_from(rng):
    hours = rng.integers(-(10**6), 10**6, 200).tolist()  # from 1855 to 2084, each with some microseconds
    times = [
        datetime.datetime(1970, 1, 1) + datetime.timedelta(hours=hour, microseconds=hour % 999983) for hour in hours
    ]
    made = Preprocessing.of({"t": times, "y": range(200)}, "y", task="regression")
    expected = made.encode({"t": times}, dtype="float64")
    frames = [pandas.DataFrame({"t": np.array(times, f"datetime64[{unit}]")}) for unit in ("us", "ns")]
    for table in (*frames, polars.DataFrame({"t": times}), {"t": [time.isoformat() for time in times]}):
        np.testing.assert_array_equal(made.encode(table, dtype="float64"), expected)
    rows = [*times, *(time.isoformat() for time in times), *map(pandas.Timestamp, times)]
    got = [made.encode_row({"t": time}, "float64")[0] for time in rows]
    np.testing.assert_array_equal(got, np.tile(expected, (3, 1)))


def test_days_and_times_of_day(tmp_path):
    table = from_csv(tmp_path, "d,t,y\n2020-01-06,10:30,1.5\n2020-01-07,22:00,2.5\n,,3.5\n2020-01-08,01:00,4.5\n")
    made = Preprocessing.of(table, "y")
    day, time = made.columns
    assert (day.has_date, day.has_time, day.missing) == (True, False, True)
    assert (time.has_date, time.has_time, time.missing, time.width) == (False, True, True, 9)
    X = made.encode(table, dtype="float64")
    assert X[:, 21:28].argmax(axis=1).tolist() == [0, 1, 0, 2]
    assert X[2].tolist() == [*[0] * 28, 1, *[0] * 8, 1]
    np.testing.assert_allclose(X[:, 0], np.array([-1, 0, 0, 1]) * np.sqrt(3 / 2), atol=1e-12)
    np.testing.assert_allclose(X[0, 29:31], [math.sin(10.5 * math.pi / 12), math.cos(10.5 * math.pi / 12)], atol=1e-15)
    times = [datetime.time(10, 30), datetime.time(22), pandas.NaT, datetime.time(1)]
    days = [datetime.date(2020, 1, 6), datetime.date(2020, 1, 7), pandas.NaT, datetime.date(2020, 1, 8)]
    np.testing.assert_allclose(made.encode({"d": days, "t": times}, dtype="float64"), X, rtol=0, atol=1e-15)


def test_the_order_of_day_and_month_is_learnt():
    days = ["03/04/2020", "31/01/2020", "05/06/2020", ""]
    made = Preprocessing.of({"t": days, "y": Y}, "y")
    assert made.columns[0].style == "day/month/year"
    dates = [datetime.date(2020, 4, 3), datetime.date(2020, 1, 31), datetime.date(2020, 6, 5), None]
    np.testing.assert_array_equal(made.encode({"t": days}), made.encode({"t": dates}))
    assert Preprocessing.of({"t": ["03/04/2020", "01/31/2020", "05/06/2020", ""], "y": Y}, "y").columns[0].style == (
        "month/day/year"
    )
    with pytest.raises(
        TableError, match="column 't', row 2: expected a date or time such as day/month/year, got '01/3"
    ):
        made.encode({"t": ["03/04/2020", "01/31/2020"]})


@pytest.mark.parametrize(
    "text",
    [["2020-13-01", "2020-02-30", "a", "b"], ["12:61", "25:00", "13:00 pm", "a"], ["1/2", "3/4", "1/2/3", "1-2"]],
)
def test_what_is_no_date(text):
    assert isinstance(Preprocessing.of({"t": text, "y": Y}, "y").columns[0], Categories)


def test_text_among_dates():
    expected = "'t', row 3: expected a date or time such as 2020-01-31.*--na-values.*got 'soon'"
    with pytest.raises(TableError, match=expected):
        Preprocessing.of({"t": ["2020-01-01", "2020-01-02", "soon", ""], "y": Y}, "y")
    chosen = Preprocessing.of({"t": ["2020-01-01", "2020-01-02"] * 2, "y": Y}, "y", categorical="t")
    assert isinstance(chosen.columns[0], Categories)
    made = Preprocessing.of({"t": TIMES, "y": Y}, "y")
    for values, got in ((["x"], "'x'"), ([7], "int64"), ([datetime.time(1)], "time64")):
        with pytest.raises(TableError, match=f"column 't'.*expected.*date.*{got}"):
            made.encode({"t": values})


# ---- categories


def test_rare_categories_share_a_feature(tmp_path):
    values = ["a"] * 4 + ["b"] * 3 + ["c", "c"] + ["d", ""]
    table = {"c": values, "x": range(11), "y": range(11)}
    made = Preprocessing.of(table, "y", max_categories=2, task="regression")
    assert made.columns[0] == Categories("c", ("a", "b"), other=True, missing=True)
    assert made.feature_names[:4] == ["c=a", "c=b", "c (other)", "c (missing)"]
    X = made.encode({"c": ["a", "b", "c", "d", "never seen", None], "x": [0] * 6})
    assert X[:, :4].argmax(axis=1).tolist() == [0, 1, 2, 2, 2, 3]
    np.testing.assert_array_equal(X[:, :4].sum(axis=1), 1)
    all_kept = Preprocessing.of(table, "y", max_categories=4, task="regression")
    assert all_kept.columns[0].values == ("a", "b", "c", "d")
    assert not all_kept.columns[0].other
    with pytest.raises(TableError, match="row 1: expected one of.*got 'never seen'"):
        all_kept.encode({"c": ["never seen"], "x": [0]})
    ties = Preprocessing.of({"c": ["q", "p", "r"] * 3, "y": range(9)}, "y", max_categories=2, task="regression")
    assert ties.columns[0].values == ("p", "q")
    assert Preprocessing.from_config(json.loads(json.dumps(made.config()))).columns == made.columns


def test_columns_that_teach_nothing_are_left_out():
    n = 60
    table = {
        "name": [f"person {i}" for i in range(n)], "one": [7] * n, "same": ["x"] * n,
        "day": [datetime.date(2020, 1, 1)] * n,
        "empty": [None] * n, "blank": [""] * n, "gap": [7] * (n - 1) + [None], "x": range(n), "y": range(n),
    }  # fmt: skip
    made, notes = quietly(table)
    assert [column.name for column in made.columns] == ["gap", "x"]
    assert sorted(notes) == [
        "left out, since all values are missing: 'empty', 'blank'",
        "left out, since nearly every value is another text, as in identifiers (categorical= or --categorical uses "
        "them): 'name'",
        "left out, since there is only one value: 'one', 'same', 'day'",
    ]
    np.testing.assert_allclose(made.encode(table)[:, :2], [[0, 0]] * (n - 1) + [[0, 1]], atol=1e-6)
    chosen = quietly({**table, "name": table["name"]}, categorical="name", max_categories=3)[0]
    assert chosen.columns[0] == Categories("name", ("person 0", "person 1", "person 10"), other=True)
    assert quietly(table, drop=["name", "one", "same", "day", "empty", "blank"])[1] == []


def test_all_bad_columns_are_in_one_error():
    table = {
        "a": ["1", "2", "3", "x"],
        "b": [[1]] * 4,
        "c": [1.0, 2.0, math.inf, 3.0],
        "d": [1, 2, 3, 4],
        "y": [0, 1, None, 1],
    }
    with pytest.raises(TableError) as caught:
        Preprocessing.of(table, "y", source="t.csv")
    text = str(caught.value)
    for part in ("t.csv, column 'a', row 4: expected a number (or the column in categorical=", "got 'x'; ",
                 "column 'b': expected numbers, text, dates or times (leave the column out with drop= or --drop",
                 "column 'c', row 3: expected a finite number, got inf; ",
                 "column 'y', row 3: expected a value in every"):  # fmt: skip
        assert part in text
    assert text.count("t.csv") == 1
    assert [error.column for error in (caught.value, *caught.value.others)] == ["a", "b", "c", "y"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == text
    made = Preprocessing.of({"a": [1, 2], "b": [1, 2], "y": [0.5, 1]}, "y")
    with pytest.raises(TableError, match="column 'a', row 1: expected a number, got 'x'; column 'b': expected such"):
        made.encode({"a": ["x"]})
    with pytest.raises(TableError, match=r"column 'p'.*\(categorical\).*column 'q'.*\(drop\)"):
        Preprocessing.of(table, "y", categorical="p", drop="q")
    many = {f"c{i}": [[1]] * 2 for i in range(15)}
    with pytest.raises(TableError, match="column 'c9': .*; and 5 more errors$"):
        Preprocessing.of({**many, "y": [1, 2]}, "y")


# ---- missing values


def test_an_indicator_of_missing_values():
    table = {"x": [1.0, None, 3.0, 8.0], "c": ["a", "b", "", "a"], "z": [1, 2, 3, 4], "y": Y}
    made = Preprocessing.of(table, "y", missing="median")
    assert made.columns == (
        Numbers("x", 3.0, 4.0, pytest.approx(1 / np.std([1, 3, 8])), missing=True),
        Categories("c", ("a", "b"), missing=True),
        Numbers("z", 2.5, 2.5, pytest.approx(1 / np.std([1, 2, 3, 4]))),
    )
    assert made.encode(table)[:, [1, 4]].tolist() == [[0, 0], [1, 0], [0, 1], [0, 0]]
    with_gap = made.encode({"x": [1.0], "c": ["a"], "z": [None]})
    assert with_gap[0, 5] == 0  # as before, the mean
    part = Preprocessing.of(table, "y", rows=[0, 3])  # an indicator that is 0 in all rows would teach nothing
    assert [column.missing for column in part.columns] == [False, False, False]


@pytest.mark.parametrize("empty", [
    [None, None], [math.nan, math.nan], np.full(2, np.nan, np.float32), [pandas.NaT, pandas.NaT],
    pandas.Series([None, None], dtype=object), pandas.Series([pandas.NaT] * 2),
    pandas.Series([None] * 2, dtype="Int64"), [pandas.NA, pandas.NA],
    pyarrow.nulls(2, pyarrow.string()), pyarrow.nulls(2, pyarrow.bool_()), ["", ""],
], ids=str)  # fmt: skip
def test_without_values_the_type_of_a_column_does_not_matter(empty):
    columns = {"n": [1.0, None, 3.0], "d": [*TIMES[:2], None], "t": [datetime.time(1), datetime.time(2), None],
               "c": ["a", "b", None]}  # fmt: skip
    made = Preprocessing.of({**columns, "y": [1.5, 2.5, 3.5]}, "y")
    expected = made.encode({name: pyarrow.nulls(2) for name in columns})
    assert expected.sum(axis=1).tolist() == [4, 4]
    np.testing.assert_array_equal(made.encode(dict.fromkeys(columns, empty)), expected)
    for value in (None, math.nan):
        np.testing.assert_array_equal(made.encode_row(dict.fromkeys(columns, value), "float32"), expected[:1])


def test_the_last_column_of_lines_that_end_with_a_comma_is_left_out(tmp_path):
    table = from_csv(tmp_path, "x,y,\n1,2.5,\n2,3.5,\n")
    made, notes = quietly(table)
    assert ([column.name for column in made.columns], notes) == (["x"], ["left out, since all values are missing: ''"])
    with pytest.raises(TableError, match="column '': expected a name for each column that has values"):
        Preprocessing.of(from_csv(tmp_path, "x,y,\n1,2.5,\n2,3.5,7\n"), "y")


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (["a", "", "b", "a"], [0, 1, 0]), ([1, None, 0, 1], [1, 0, 1]),
        ([1.5, math.nan, 2.5, 0.5], [0, np.sqrt(1.5), -np.sqrt(1.5)]),
        ([True, None, False, True], [1, 0, 1]),
    ],
)  # fmt: skip
def test_rows_without_a_target(target, labels):
    table = {"x": [1, 2, 3, 5], "y": target}
    expected = "column 'y', row 2: expected a value in every row.*--drop-missing-target.*got a missing one, 1 in 4 rows"
    with pytest.raises(TableError, match=expected):
        Preprocessing.of(table, "y")
    made = Preprocessing.of(table, "y", drop_missing_target=True)
    rows = made.rows_with_target(table)
    assert rows.tolist() == [0, 2, 3]
    np.testing.assert_allclose(made.targets(table, rows=rows), labels)
    with pytest.raises(TableError, match="column 'y', row 2"):
        made.targets(table)
    with pytest.raises(TableError, match="column 'y', row 2"):
        made.targets(table, rows=[0, 1])
    floats = {"x": [1, 2, 3, 5], "y": [1.0, math.nan, 0.0, 1.0]}
    made = Preprocessing.of(floats, "y", task="classification", drop_missing_target=True)
    assert made.target.classes == (0, 1)
    with pytest.raises(TableError, match="column 'y', row 1: expected a value in every row"):
        Preprocessing.of({"x": [1, 2], "y": [None, None]}, "y", drop_missing_target=True)


def test_values_that_stand_for_missing_ones(tmp_path):
    text = "a,b,c,t,y\n1,?,u,2020-01-01,1\n-999,2.5, ?,?,2\n3,3.5,v,2020-01-03,?\n4,4.5,u,2020-01-04,3\n"
    options = {"na_values": [" ?", "-999 "], "drop_missing_target": True, "task": "regression"}
    table = from_csv(tmp_path, text, na_values=options["na_values"])
    made = Preprocessing.of(table, "y", **options)
    assert [column.missing for column in made.columns] == [True] * 4
    assert made.columns[0].shift == pytest.approx(8 / 3)
    assert (made.columns[2].values, made.rows_with_target(table).tolist()) == (("u", "v"), [0, 1, 3])
    X = made.encode(table)
    again = Preprocessing.from_config(json.loads(json.dumps(made.config())))
    plain = {"a": [1, -999, 3, 4], "b": ["?", "2.5", "3.5", "4.5"], "c": ["u", " ?", "v", "u"],
             "t": ["2020-01-01", "?", "2020-01-03", "2020-01-04"], "y": ["1", "2", "?", "3"]}  # fmt: skip
    of_truth = Preprocessing.of({"a": [1, 2, 3], "y": Y[:3]}, "y", na_values="1")
    assert of_truth.encode_row({"a": np.True_}, "float32").tolist() == of_truth.encode([{"a": True}]).tolist()
    for one in (tmp_path / "t.csv", read(tmp_path / "t.csv"), plain, pandas.DataFrame(plain), polars.DataFrame(plain)):
        np.testing.assert_array_equal(again.encode(one), X)
        assert Preprocessing.of(one, "y", **options).config() == made.config()
        for i in range(4):
            row = {name: values[i] for name, values in plain.items()}
            np.testing.assert_array_equal(again.encode_row(row, "float32"), X[i : i + 1])
    without, _ = quietly(plain, task="classification", categorical="b", drop="t")
    assert "?" in without.target.classes
    assert "b=?" in without.feature_names
    assert without.columns[0].shift != made.columns[0].shift


# ---- rows from anywhere

ROWS = [
    {"n": 1.5, "i": 3, "b": True, "c": "Oslo", "m": "b", "t": datetime.datetime(2020, 1, 31, 12, 30), "k": 7},
    {"n": None, "i": -1, "b": False, "c": "Rome", "m": None, "t": datetime.datetime(2021, 5, 1), "k": 10},
    {"n": 2.5, "i": 2, "b": True, "c": "Paris", "m": "a", "t": None, "k": 7},
    {"n": -4.0, "i": 0, "b": False, "c": "Oslo", "m": "b", "t": datetime.datetime(1999, 12, 31, 23, 59, 59), "k": 1},
]


@pytest.fixture(params=["classes", "number"])
def trained(request):
    """A network with the preprocessing of ROWS."""
    targets = ["x", "y", "z", "x"] if request.param == "classes" else [10.0, 20.0, 50.0, 20.0]
    rows = [{**row, "target": target} for row, target in zip(ROWS, targets, strict=True)]
    made = Preprocessing.of(rows, "target", categorical="k", max_categories=2)
    network = Network(made.n_features, [Dense(8, "tanh"), Dense(made.n_outputs)], loss=made.loss, dtype="float64")
    network.preprocessing = made
    network.fit(made.encode(rows, dtype="float64"), made.targets(rows), epochs=30, optimizer=fastgd.Adam(0.05))
    return network


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_predictions_for_rows_from_anywhere(trained, tmp_path):
    made, is_class = trained.preprocessing, trained.preprocessing.target.classes is not None
    expected = made.decode(trained.predict(made.encode(columns_of(ROWS), dtype="float64")))
    table = pyarrow.table(columns_of(ROWS))
    pandas.DataFrame(ROWS).to_csv(tmp_path / "rows.csv", index=False)
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    arrays = {name: np.array(values) for name, values in columns_of(ROWS).items() if name in ("i", "b", "c", "k")}
    series = {name: pandas.Series(values) for name, values in columns_of(ROWS).items()}
    sources = [ROWS, table, pandas.DataFrame(ROWS), polars.DataFrame(ROWS), columns_of(ROWS), tmp_path / "rows.csv",
               {**columns_of(ROWS), **arrays}, {**dict(reversed(columns_of(ROWS).items())), **arrays}, series,
               str(tmp_path / "rows.parquet")]  # fmt: skip
    categories = polars.DataFrame(ROWS).with_columns(c=polars.col("c").cast(polars.Categorical),
                                                     m=polars.col("m").cast(polars.Enum(["b", "a"])))  # fmt: skip
    assert Preprocessing.of(categories.with_columns(y=polars.Series(Y)), "y", drop="k").columns[3].values == (
        "Oslo", "Paris", "Rome",
    )  # fmt: skip
    records = pandas.DataFrame(ROWS).astype({"k": "Int64"}).to_dict("records")  # with NaN and NaT
    sources += [records, categories, categories[2:].vstack(categories[:2])[[2, 3, 0, 1]]]
    for rows in sources:
        got = trained.predict_table(rows)
        assert got.shape == (4,)
        assert (got.tolist() if is_class else got) == (expected.tolist() if is_class else pytest.approx(expected))
    assert made.classes == made.target.classes
    for i, (row, value) in enumerate(zip(ROWS, expected, strict=True)):
        assert trained.predict_table(pandas.DataFrame(ROWS).iloc[i]) == trained.predict_table(row)
        got = trained.predict_table({**row, "more": [["ignored"], []]})
        assert got == trained.predict_table({**row, "i": np.int8(row["i"]), "more": [["ignored"], []]})  # as a table
        assert type(got) is (str if is_class else float)
        assert got == (value if is_class else pytest.approx(value, rel=1e-12))
    if is_class:
        every = trained.predict_table(ROWS, probabilities=True)
        np.testing.assert_allclose(every.sum(axis=1), 1)
        one = trained.predict_table(ROWS[2], probabilities=True)
        np.testing.assert_allclose(one, every[2], rtol=1e-12)
        assert trained.predict_table(ROWS[2]) == made.target.classes[one.argmax()]
    loaded = pickle.loads(pickle.dumps(trained))
    assert loaded.predict_table(ROWS[0]) == trained.predict_table(ROWS[0])


def test_one_row_is_encoded_as_a_table(trained):
    """The fast way of one row gives the bits of the table's, or nothing."""
    made = trained.preprocessing
    changes = [
        {}, {"n": "2.5"}, {"n": ""}, {"n": np.float32(0.1)}, {"i": np.int64(5)}, {"b": 1}, {"b": np.True_}, {"c": ""},
        {"c": "somewhere"}, {"m": ""}, {"t": "2020-02-29 10:00"}, {"t": datetime.date(2020, 2, 29)}, {"t": ""},
        {"t": "2020-02-29T10:00+05:00"}, {"k": 10}, {"k": 8}, {"k": None}, {"k": 7.0}, {"n": math.nan}, {"k": math.nan},
    ]  # fmt: skip
    for dtype in ("float32", "float64"):
        for change in changes:
            row = {**ROWS[0], **change}
            fast = made.encode_row(row, dtype)
            assert fast is not None, change
            np.testing.assert_allclose(
                fast, made.encode([row], dtype=dtype), rtol=0, atol=1e-6 if dtype == "float32" else 1e-15
            )
    for change in ({"n": "x"}, {"n": math.inf}, {"n": [1.5]}, {"n": 10**400}, {"t": "soon"}, {"t": 3}, {"m": "unknown"},
                   {"m": 7}, {"k": "x"}, {"n": 1e300}):  # fmt: skip
        assert made.encode_row({**ROWS[0], **change}, "float32") is None, change
    assert made.encode_row({name: value for name, value in ROWS[0].items() if name != "i"}, "float32") is None


def test_what_is_no_row(trained):
    for change, match in (({"n": "x"}, "column 'n', row 1: expected a number, got 'x'"),
                          ({"m": "c"}, "column 'm', row 1: expected one of.*got 'c'"),
                          ({"n": math.inf}, "column 'n', row 1: expected a finite number"),
                          ({"t": "soon"}, "column 't', row 1: expected a date or time")):  # fmt: skip
        with pytest.raises(TableError, match=match):
            trained.predict_table({**ROWS[0], **change})
    unknown = trained.predict_table([{**ROWS[0], "m": "c"}], unknown="zeros").tolist()
    assert trained.predict_table({**ROWS[0], "m": "c"}, unknown="zeros") in (unknown[0], pytest.approx(unknown[0]))
    assert trained.predict_table(ROWS[0], unknown="zeros") == trained.predict_table(ROWS[0])
    with pytest.raises(TableError, match="column 'n': expected such a column.*column 'c': expected such a column"):
        trained.predict_table({name: value for name, value in ROWS[0].items() if name not in ("n", "c")})
    misspelt = {"nn": 1.0, "cc": "Oslo", **{name: ROWS[0][name] for name in "bmtk"}}
    with pytest.raises(TableError, match=r"'n': .*; column 'c': .* columns \['nn', .*; is it the column 'cc'\?"):
        trained.predict_table(misspelt)
    for other in (3, pandas.DataFrame(ROWS)["n"]):
        with pytest.raises(TypeError, match="'table'.*list of dicts"):
            trained.predict_table(other)
    with pytest.raises(ValueError, match="'unknown'"):
        trained.predict_table(ROWS[0], unknown="x")
    if trained.preprocessing.target.classes is None:
        with pytest.raises(ValueError, match="'probabilities': expected False for a target that is a number"):
            trained.predict_table(ROWS[0], probabilities=True)
    with pytest.raises(
        ValueError, match="'preprocessing': expected a network with the preprocessing of a table, got None"
    ):
        trained.like().predict_table(ROWS[0])


def test_frames_are_not_imported():
    code = (
        "import sys, fastgd, fastgd.cli.parser; print([m for m in ('pandas', 'polars', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_columns_of_every_kind_in_a_file_and_in_onnx(trained, tmp_path):
    made = trained.preprocessing
    trained.save(tmp_path / "m")
    loaded, _ = fastgd.load(tmp_path / "m")
    assert loaded.preprocessing.columns == made.columns
    assert {type(column) for column in made.columns} == {Numbers, Categories, Dates}
    trained.to_onnx(tmp_path / "m.onnx")
    rows = [*ROWS, {**ROWS[0], "c": "somewhere"}]
    feed = {}
    for column in made.columns:
        values = [row[column.name] for row in rows]
        if isinstance(column, Dates):
            values = [
                np.nan if value is None else (value - datetime.datetime(1970, 1, 1)).total_seconds() for value in values
            ]
        elif isinstance(column, Numbers):
            values = [np.nan if value is None else float(value) for value in values]
        else:
            values = ["" if value is None else str(value) for value in values]
        feed[column.name] = np.array(values, column.onnx_input[0])[:, None]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    got = session.run(["prediction"], feed)[0]
    expected = trained.predict_table(rows)
    assert (got.tolist() if made.target.classes else got) == (
        expected.tolist() if made.target.classes else pytest.approx(expected, rel=1e-12)
    )


@pytest.mark.parametrize(("name", "value"), [("style", "x"), ("has_date", "yes"), ("scale", "1"), ("missing", None)])
def test_hostile_dates(name, value):
    config = Preprocessing.of({"t": TIMES, "y": Y}, "y").config()
    config["columns"][0][name] = value
    with pytest.raises((TypeError, ValueError), match=f"'{name}'"):
        Preprocessing.from_config(config)


def test_files_of_before_are_read():
    columns = [{"kind": "Numbers", "name": "a", "fill": 1.0, "shift": 2.0, "scale": 3.0},
               {"kind": "Categories", "name": "b", "values": ["x", "y"], "by_value": False}]  # fmt: skip
    made = Preprocessing.from_config(
        {"columns": columns, "target": {"name": "y", "classes": None, "shift": 0.0, "scale": 1.0}}
    )
    assert made.encode({"a": [3.0, None], "b": ["y", None]}).tolist() == [[3, 0, 1], [-3, 0, 0]]


# ---- the command line


def run(monkeypatch, capsys, folder, *arguments):
    monkeypatch.chdir(folder)
    code = cli.main(list(arguments))
    return code, *capsys.readouterr()


PEOPLE = "when,name,town,score,late\n" + "".join(
    f"2020-{1 + i % 12:02}-{1 + i % 28:02} {i % 24:02}:00,p{i},t{i % 30},{i % 7 if i % 9 else '?'},"
    f"{('no', 'yes')[i % 2] if i % 30 else ''}\n"
    for i in range(120)
)
TRAIN = ("train", "people.csv", "--target", "late", "--epochs", "1", "--quiet", "--na-values", "?",
         "--max-categories", "5", "--overwrite")  # fmt: skip


def test_a_table_as_it_comes_from_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "people.csv").write_text(PEOPLE)
    code, _, err = run(monkeypatch, capsys, tmp_path, *TRAIN)
    assert (code, err.count("\n")) == (1, 1)
    assert "column 'late', row 1: expected a value in every row" in err
    assert "got a missing one, 4 in 120 rows" in err
    other = PEOPLE.replace("t1,", "t99,")
    (tmp_path / "other.csv").write_text(other)
    more = ("--drop-missing-target", "--validation-file", "other.csv", "--class-weight", "yes=3,no=1")
    code, out, err = run(monkeypatch, capsys, tmp_path, *TRAIN, *more)
    assert (code, err) == (0, "")
    for part in ("csv:\n  numbers: score (14 missing)\n  categories: town (5 and other)\n  dates: when (with times)\n",
                 "left out, since nearly every value is another text, as in identifiers", "): 'name'",
                 "4 of 120 rows left out, since late is missing there",
                 "116 training rows, 116 validation rows"):  # fmt: skip
        assert part in out
    (tmp_path / "new.csv").write_text("score,town,when\n?,nowhere,2030-01-01\n3,t1,?\n")
    code, out, _ = run(monkeypatch, capsys, tmp_path, "predict", "people.safetensors", "new.csv")
    assert (code, len(out.splitlines())) == (0, 3)
    code, _, err = run(monkeypatch, capsys, tmp_path, "evaluate", "people.safetensors", "people.csv")
    assert code == 1
    assert "--drop-missing-target" in err
    command = ("evaluate", "people.safetensors", "people.csv", "--drop-missing-target", "--json")
    code, out, _ = run(monkeypatch, capsys, tmp_path, *command)
    assert (code, json.loads(out)["rows"]) == (0, 116)


def test_validation_on_a_file_is_of_its_rows(tmp_path, monkeypatch, capsys):
    """With the encoding of the training rows, all of which are trained on."""
    (tmp_path / "t.csv").write_text("x,c,y\n" + "".join(f"{i},{'ab'[i % 2]},{i / 2}\n" for i in range(40)))
    (tmp_path / "v.csv").write_text("y,c,x\n" + "".join(f"{i * 3},{'abz'[i % 3]},{i * 100}\n" for i in range(7)))
    command = (
        "train",
        "t.csv",
        "--target",
        "y",
        "--epochs",
        "2",
        "--patience",
        "0",
        "--quiet",
        "--validation-file",
        "v.csv",
    )
    code, out, _ = run(monkeypatch, capsys, tmp_path, *command)
    assert code == 0
    assert "40 training rows, 7 validation rows" in out
    assert "unknown categories are encoded as zeros (v.csv, column 'c', row 3: expected one of" in out
    network, _ = fastgd.load(tmp_path / "t.safetensors")
    made, other = network.preprocessing, read(tmp_path / "v.csv")
    assert made.columns[0].shift == 19.5
    loss = network.loss(made.encode(other, unknown="zeros"), made.targets(other))
    assert network.history.validation_loss[-1] == pytest.approx(loss, rel=1e-6)


def test_weights_of_classes_are_those_of_their_names(tmp_path, monkeypatch, capsys):
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i % 7},{'ab'[i % 3 == 0]}\n" for i in range(60)))
    given, fit = [], Network.fit
    monkeypatch.setattr(
        Network, "fit", lambda *a, **options: given.append(options["class_weight"]) or fit(*a, **options)
    )
    command = ("train", "t.csv", "--target", "y", "--epochs", "1", "--quiet", "--overwrite")
    for text in ("b=3", "b=0.5, a=2", "balanced"):
        assert run(monkeypatch, capsys, tmp_path, *command, "--class-weight", text)[0] == 0
    assert given == [{1: 3.0}, {1: 0.5, 0: 2.0}, "balanced"]
    (tmp_path / "n.csv").write_text("x,y\n1,0.5\n2,1.5\n3,2.5\n")
    code, _, err = run(monkeypatch, capsys, tmp_path, "train", "n.csv", "--target", "y", "--class-weight", "b=3")
    assert code == 1
    assert "'--class-weight': expected no such option for targets other than classes" in err


BAD = {
    "class": (["--class-weight", "c=3"], r"'--class-weight'.*\['a', 'b'\], got 'c'"),
    "negative": (["--class-weight", "a=-3"], "'--class-weight a'.*got -3"),
    "both": (["--validation", "0.1", "--validation-file", "v.csv"], "'--validation'.*beside --validation-file"),
    "the data": (["--validation-file", "./t.csv"], "'--validation-file': expected another file than DATA"),
    "no file": (["--validation-file", "none.csv"], "none.csv"),
    "the model": (["--validation-file", "v.csv", "--save", "v.csv"], "'--save': expected another file than --val"),
    "no categories": (["--max-categories", "0"], "'--max-categories'.*>= 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_options(case, tmp_path, monkeypatch, capsys):
    options, match = BAD[case]
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i % 7},{'ab'[i % 3 == 0]}\n" for i in range(60)))
    code, _, err = run(monkeypatch, capsys, tmp_path, "train", "t.csv", "--target", "y", "--quiet", *options)
    assert (code, err.count("\n"), [path.name for path in tmp_path.iterdir()]) == (1, 1, ["t.csv"])
    with pytest.raises(AssertionError, match=match):
        raise AssertionError(err)


@pytest.mark.parametrize("text", ["late", "a=b", "=3", "a=1,a=2", ""])
def test_weights_that_are_none(text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "t.csv", "--class-weight", text])
    assert "'balanced', or a weight for each class, such as late=3,on-time=1" in capsys.readouterr().err


def test_options_of_tables_are_refused_for_other_data(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "a.npz", X=np.arange(60.0).reshape(20, 3), y=np.arange(20) % 2)
    for data in ("digits", "a.npz"):
        for option in (
            ["--na-values", "?"],
            ["--max-categories", "3"],
            ["--drop-missing-target"],
            ["--validation-file", "v.csv"],
        ):
            code, _, err = run(monkeypatch, capsys, tmp_path, "train", data, "--quiet", *option)
            assert code == 1
            assert f"'{option[0]}': expected no such option for" in err
