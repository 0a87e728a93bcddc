"""The kinds of columns of features, and which of them a column is. A kind has a class in a file of its own."""

from typing import TypeAlias

from .categories import Categories
from .dates import Dates, style_of
from .errors import TableError, pyarrow_modules
from .numbers import Numbers, numbers_of
from .values import is_text, with_missing

Column: TypeAlias = Numbers | Categories | Dates
KINDS = {kind.__name__: kind for kind in (Numbers, Categories, Dates)}


def fitted(column, where, *, is_categorical, fill, max_categories, rows):
    """What is learnt from a column, or a text that says why it is left out. is_categorical: the user says that it holds
    categories. fill: "mean" or "median". rows: the index of the training rows, None is all."""
    style = None if is_categorical else style_of(column, where)
    if style is not None:
        return Dates.of(column, where, style, rows)
    if is_categorical or is_text(column.type):
        return Categories.of(column, where, max_categories, rows, is_chosen=is_categorical)
    return Numbers.of(column, where, fill, rows)


def without_na(column, na_values, where):
    """A column in which the values that `na_values` names are missing; text that is only numbers then is numbers."""
    made = with_missing(column, na_values)
    if made is column or not is_text(made.type):
        return made
    try:
        values = numbers_of(made, where)
    except TableError:
        return made
    arrow = pyarrow_modules()
    return arrow.chunked_array([arrow.array(values, from_pandas=True)])
