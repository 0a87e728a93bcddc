"""Tables: CSV, Parquet and Arrow files, by pyarrow (extra `data`), and their encoding as rows of numbers.

table = fastgd.tables.read("houses.csv")
preprocessing = fastgd.tables.Preprocessing.of(table, target="price")
X, y = preprocessing.encode(table), preprocessing.targets(table)
net = fastgd.Network(preprocessing.n_features, [..., fastgd.Dense(preprocessing.n_outputs)], loss=preprocessing.loss)
net.preprocessing = preprocessing  # saved and loaded with the network
net.predict_table(other)  # in the units of the target, or its classes
"""

from ..core.hints import show_names
from .categories import Categories
from .dates import Dates
from .errors import TableError
from .files import read
from .learning import OUTPUTS
from .numbers import Numbers
from .preprocessing import Preprocessing
from .target import Target

__all__ = ["OUTPUTS", "Categories", "Dates", "Numbers", "Preprocessing", "TableError", "Target", "read"]

show_names(__name__)
