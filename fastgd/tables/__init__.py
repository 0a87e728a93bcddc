"""Tables: files and columns of numbers and categories, as rows of numbers that networks take, and back."""

from .columns import Categories, Numbers, Target
from .errors import TableError
from .files import read
from .preprocessing import OUTPUTS, Preprocessing

__all__ = ["OUTPUTS", "Categories", "Numbers", "Preprocessing", "TableError", "Target", "read"]
