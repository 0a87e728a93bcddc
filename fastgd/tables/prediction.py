"""Predictions for rows of a table by a network that has their preprocessing."""

from typing import TYPE_CHECKING, Any

from ..errors import check_flag, shown, value_error
from .files import Table
from .preprocessing import Preprocessing

if TYPE_CHECKING:
    from ..network import Network


def predict_table(network: "Network", rows: "Table | dict[str, Any]", probabilities: bool, unknown: str) -> Any:
    """`Network.predict_table`."""
    made = network.preprocessing
    if not isinstance(made, Preprocessing):
        raise value_error("preprocessing", "a network with the preprocessing of a table", shown(made))
    target = made.target
    if probabilities is not False and check_flag("probabilities", probabilities) and target.classes is None:
        raise value_error("probabilities", "False for a target that is a number", probabilities)
    rows = _as_dict(rows, made)
    is_fast = type(rows) is dict and unknown in ("error", "zeros")
    X = made.encode_row(rows, network.dtype) if is_fast else None
    is_row = X is not None
    if X is None:
        is_row = isinstance(rows, dict) and bool(rows) and not any(_is_column(rows.get(c.name)) for c in made.columns)
        X = made.encode([rows] if is_row else rows, unknown=unknown, dtype=network.dtype)
    prediction = network.predict(X)
    if not is_row:
        return prediction if probabilities else made.decode(prediction)
    if probabilities:
        return prediction[0]
    if target.classes is None:
        return prediction.item() / target.scale + target.shift
    return target.classes[prediction.argmax()]


def _as_dict(row, made):
    """A row of a pandas.DataFrame, a Series by name of the column, as a dict; anything else unchanged."""
    if not hasattr(row, "iloc") or not hasattr(row, "to_dict") or hasattr(row, "columns"):
        return row
    named = {str(name): value for name, value in row.to_dict().items()}
    return named if any(column.name in named for column in made.columns) else row


def _is_column(value):
    """Whether a value of a dict is a column of values, not one value."""
    return hasattr(value, "__len__") and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) > 0
