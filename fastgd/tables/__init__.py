"""Tables: CSV, Parquet and Arrow files, by pyarrow (extra `data`), and their encoding as rows of numbers.

table = fastgd.tables.read("houses.csv")
preprocessing = fastgd.tables.Preprocessing.of(table, target="price")
X, y = preprocessing.encode(table), preprocessing.targets(table)
net = fastgd.Network(preprocessing.n_features, [..., fastgd.Dense(preprocessing.n_outputs)], loss=preprocessing.loss)
net.preprocessing = preprocessing  # saved and loaded with the network
preprocessing.decode(net.predict(preprocessing.encode(other)))
"""

from .columns import Categories, Numbers, Target
from .errors import TableError
from .files import read
from .preprocessing import OUTPUTS, Preprocessing

__all__ = ["OUTPUTS", "Categories", "Numbers", "Preprocessing", "TableError", "Target", "read"]
