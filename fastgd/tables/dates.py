"""Columns of dates, of dates with times, and of times of day."""

import dataclasses
import datetime
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ..core.for_users import ForUsers
from ..core.types import Array
from ..errors import check_flag, check_number, choose, shown
from .errors import Where, pyarrow_modules
from .numbers import MOSTLY, OTHERWISE, fitted_scale, rows_to_learn_from
from .values import as_text, check_encoding, decoded, has_no_values, is_text, is_valid, words_of

if TYPE_CHECKING:
    import pyarrow

    from ..onnx import Graph

DAY, YEAR = 86400, 365.2425 * 86400  # in seconds
# Sines and cosines of a year, and of a day: as many as in Prophet (Taylor and Letham 2018, "Forecasting at scale").
OF_YEAR, OF_DAY = 10, 4
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THURSDAY = WEEKDAYS.index("Thursday")  # 1970-01-01
# How text writes dates, and the order of year, month and day. Where several are possible, the first counts.
TIME_ALONE = "time of day"
STYLES = {"iso": "", "year/month/day": "ymd", "month/day/year": "mdy", "day/month/year": "dmy", TIME_ALONE: ""}
ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?", re.DOTALL)
TIME = r"(\d{1,2}):(\d{2})(?::(\d{2})(\.\d+)?)?(?: ?([AaPp])\.?[Mm]\.?)?"
OTHER = re.compile(rf"(\d{{1,4}})([-/.])(\d{{1,2}})\2(\d{{1,4}})(?:[T ]{TIME})?")
TIME_OF_DAY = re.compile(TIME)
EPOCH, EPOCH_UTC = datetime.datetime(1970, 1, 1), datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# So many different texts of a column show whether it holds dates.
SAMPLE = 1000
# Ticks of a second in Arrow's units of time.
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclasses.dataclass(frozen=True)
class Dates(ForUsers):
    """A column of dates or times. With s, the seconds since 1970-01-01 (of UTC if a zone is given, else as written),
    and the day d = s / 86400, its features are

    has_date    (d - shift) scale; sine and cosine of 2 pi k d / 365.2425 for k = 1 ... 10, the season; and one feature
                for each day of the week, 1 or 0
    has_time    sine and cosine of 2 pi k d for k = 1 ... 4, the time of day
    missing     1 where the value is missing, else 0; all others are 0 there

    style: how text writes dates, as in `STYLES`; ISO 8601 is always understood."""

    _internal = frozenset({"details", "encode", "from_config", "kind", "of", "onnx", "onnx_input", "row_encoder"})

    name: str
    has_date: bool
    has_time: bool
    shift: float
    scale: float
    style: str = "iso"
    missing: bool = False

    kind: ClassVar[str] = "dates"
    onnx_input: ClassVar[tuple[type, str]] = (
        np.float64,
        "seconds since 1970-01-01, of UTC if a zone is given; missing ones are NaN",
    )

    @property
    def width(self) -> int:
        """Number of features."""
        return (8 + 2 * OF_YEAR) * self.has_date + 2 * OF_DAY * self.has_time + self.missing

    @property
    def feature_names(self) -> list[str]:
        """Names of the features."""
        of_date = ["days", *_waves("season", OF_YEAR), *WEEKDAYS] if self.has_date else []
        of_time = _waves("time", OF_DAY) if self.has_time else []
        return [f"{self.name} ({end})" for end in (*of_date, *of_time, *["missing"] * self.missing)]

    @property
    def details(self) -> list[str]:
        """What a summary says of the column besides its name."""
        style = [self.style] if self.style != "iso" else []
        return [*style, *["with times"] * (self.has_date and self.has_time)]

    def encode(self, column: "pyarrow.ChunkedArray", out: "Array", where: Where, unknown: str) -> None:
        """Encodes a column into `out` (rows, width). Raises TableError that names the row."""
        # Many rows have the same time, and sines take long.
        seconds, rows = np.unique(seconds_in(column, where, self.style), return_inverse=True)
        absent = np.isnan(seconds)
        features = np.zeros((len(seconds), self.width), out.dtype)
        for i, feature in enumerate(self._features(np.where(absent, 0.0, seconds), np)):
            features[:, i] = feature
        features[absent] = 0
        if self.missing:
            features[:, -1] = absent
        out[...] = features[rows]

    def _features(self, seconds, module):
        """The features of seconds since 1970-01-01, but for `missing`. module: numpy for arrays, math for a number."""
        features, days = [], seconds / DAY
        if self.has_date:
            phase, weekday = 2 * math.pi / YEAR * seconds, (module.floor(days) + THURSDAY) % 7
            features.append((days - self.shift) * self.scale)
            features += [wave(k * phase) for k in range(1, OF_YEAR + 1) for wave in (module.sin, module.cos)]
            features += [weekday == i for i in range(7)]
        if self.has_time:
            phase = 2 * math.pi / DAY * (seconds % DAY)
            features += [wave(k * phase) for k in range(1, OF_DAY + 1) for wave in (module.sin, module.cos)]
        return features

    def row_encoder(self, start: int) -> "Callable[[Any, memoryview], bool]":
        """As `Numbers.row_encoder`."""
        style, make, absent = self.style, self._features, start + self.width - 1 if self.missing else None

        def put(value, out):
            kind = type(value)
            if kind is str and value:
                seconds = seconds_of(value, style)
            elif isinstance(value, datetime.datetime):  # pandas.Timestamp is one
                seconds = _since_1970(value)
            elif kind is datetime.date:
                seconds = float(DAY * (value.toordinal() - EPOCH.toordinal()))
            elif value is None or kind is str or (kind is float and value != value):
                if absent is not None:
                    out[absent] = 1.0
                return True
            else:
                return False
            if seconds != seconds:
                return False
            for i, feature in enumerate(make(seconds, math), start):
                out[i] = feature
            return True

        return put

    @staticmethod
    def onnx(graph: "Graph", columns: list["Dates"]) -> str:
        """As `Numbers.onnx`, for columns of dates."""
        made = []
        for column in columns:
            absent = graph.add("IsNaN", column.name)
            seconds = graph.add("Where", absent, np.zeros(1), column.name)
            days = graph.add("Div", seconds, np.full(1, float(DAY)))
            floor = graph.add("Floor", days)
            parts: list[str] = []

            def waves(seconds, period, n, parts=parts):  # a cosine is a sine, too
                phases = graph.add("Mul", seconds, np.repeat(2 * math.pi / period * np.arange(1, n + 1), 2))
                parts.append(graph.add("Sin", graph.add("Add", phases, np.tile([0.0, math.pi / 2], n))))

            if column.has_date:
                shifted = graph.add("Sub", days, np.full(1, column.shift))
                parts.append(graph.add("Mul", shifted, np.full(1, column.scale)))
                waves(seconds, YEAR, OF_YEAR)
                week = graph.add("Add", floor, np.full(1, float(THURSDAY)))
                weeks = graph.add("Floor", graph.add("Div", week, np.full(1, 7.0)))
                weekday = graph.add("Sub", week, graph.add("Mul", weeks, np.full(1, 7.0)))
                parts.append(graph.cast(graph.add("Equal", weekday, np.arange(7.0)), np.float64))
            if column.has_time:
                waves(graph.add("Sub", seconds, graph.add("Mul", floor, np.full(1, float(DAY)))), DAY, OF_DAY)
            present = graph.cast(graph.add("Not", absent), np.float64)
            made.append(graph.add("Mul", graph.add("Concat", *parts, axis=1), present))
            made += [graph.cast(absent, np.float64)] * column.missing
        return graph.cast(graph.add("Concat", *made, axis=1), graph.dtype)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The column of a `Preprocessing.config`."""
        flags = {name: check_flag(name, config[name]) for name in ("has_date", "has_time", "missing")}
        numbers = {name: check_number(name, config[name]) for name in ("shift", "scale")}
        style = config["style"]
        choose("style", style, STYLES)
        return cls(str(config["name"]), style=style, **flags, **numbers)

    @classmethod
    def of(cls, column: "pyarrow.ChunkedArray", where: Where, style: str, rows: "Array | None") -> "Self | str":
        """Learns from a column, or returns why it is left out. style: of `style_of`. rows: the index of the training
        rows, None is all."""
        days = seconds_in(column, where, style, OTHERWISE) / DAY
        has_date, has_time = style != TIME_ALONE, bool((days[~np.isnan(days)] % 1 != 0).any())
        days, why = rows_to_learn_from(days, rows)
        if why:
            return why
        shift, scale = fitted_scale(days, where)
        return cls(str(where.column), has_date, has_time, shift, scale, style, bool(np.isnan(days).any()))


def _waves(of, n):
    """Names of sines and cosines."""
    return [f"{of} {wave} {k}" for k in range(1, n + 1) for wave in ("sine", "cosine")]


def style_of(column, where):
    """How a column writes dates or times, as in `STYLES`, or None if it holds none."""
    types, column = pyarrow_modules().types, decoded(column)
    if types.is_time(column.type):
        return TIME_ALONE
    if types.is_timestamp(column.type) or types.is_date(column.type):
        return "iso"
    if not is_text(column.type):
        return None
    words = as_text(column, where).unique().drop_null().to_pylist()
    for sample in (words[:SAMPLE], words):
        counts = {style: sum(seconds_of(word, style) == seconds_of(word, style) for word in sample) for style in STYLES}
        best = max(counts, key=lambda style: counts[style])
        if counts[best] <= MOSTLY * len(sample):
            return None
    return best


def seconds_in(column, where, style, otherwise=""):
    """A column as seconds since 1970-01-01, NaN where it is missing. Raises TableError for values that are no dates or
    times; otherwise: an alternative that its message offers."""
    arrow, column = pyarrow_modules(), decoded(column)
    kind, types = column.type, arrow.types
    if is_text(kind):
        text = as_text(column, where)
        words, codes = words_of(text)
        seconds = np.array([*(seconds_of(word, style) for word in words), np.nan], np.float64)[codes]
        wrong = np.isnan(seconds) & is_valid(text)
        if wrong.any():
            row = int(np.argmax(wrong))
            examples = {"iso": "2020-01-31 or 2020-01-31 23:59", TIME_ALONE: "23:59"}
            expected = f"a date or time such as {examples.get(style, style)}{otherwise}"
            raise where.error(expected, shown(text[row].as_py()), row)
        return seconds
    if has_no_values(column):
        return np.full(len(column), np.nan)
    if types.is_date(kind):
        column = column.cast(arrow.timestamp("ms"))
    elif not types.is_timestamp(kind) and not (types.is_time(kind) and style == TIME_ALONE):
        check_encoding(column, where)
        raise where.error("times of day" if style == TIME_ALONE else "dates", f"{kind}")
    ticks = column.cast(arrow.int32() if types.is_time32(kind) else arrow.int64()).fill_null(0)
    per_second = TICKS[column.type.unit]
    whole, rest = np.divmod(ticks.to_numpy(zero_copy_only=False).astype(np.int64), per_second)
    return np.where(is_valid(column), _seconds(whole, rest * 10**6 // per_second), np.nan)


def seconds_of(text, style):
    """The seconds since 1970-01-01 that a text means, or NaN."""
    text = text.strip()
    try:
        if style == TIME_ALONE:
            found = TIME_OF_DAY.fullmatch(text)
            return _clock(*found.groups()) if found else math.nan
        if ISO.fullmatch(text):
            return _since_1970(datetime.datetime.fromisoformat(text))
        found = OTHER.fullmatch(text) if STYLES[style] else None
        if not found:
            return math.nan
        first, _, second, third, *clock = found.groups()
        of = dict(zip(STYLES[style], (first, second, third), strict=True))
        if len(of["y"]) != 4:
            return math.nan
        date = datetime.datetime(*(int(of[part]) for part in "ymd"))
        return _since_1970(date) + (_clock(*clock) if clock[0] else 0.0)
    except ValueError:
        return math.nan


def _clock(hours, minutes, seconds, fraction, half):
    """Seconds since midnight, NaN if there is no such time. half: "a" or "p" on a clock of 12 hours, else None."""
    hours, minutes, seconds = int(hours), int(minutes), int(seconds or 0)
    if minutes > 59 or seconds > 59 or hours > 23 or (half and not 1 <= hours <= 12):
        return math.nan
    if half:
        hours = hours % 12 + 12 * (half in "pP")
    return 3600.0 * hours + 60 * minutes + seconds + float(fraction or 0)


def _since_1970(time):
    past = time - (EPOCH if time.tzinfo is None else EPOCH_UTC)
    return _seconds(DAY * past.days + past.seconds, past.microseconds)


def _seconds(whole, microseconds):
    """Seconds as a floating-point number: the same bits from text, from a datetime and from each of Arrow's units."""
    return whole + microseconds / 1e6
