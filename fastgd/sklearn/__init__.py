"""Estimators with the interface of scikit-learn (extra `sklearn`): its perceptrons with its results, and convolutional
networks."""

import functools

from .cnn import CNNClassifier
from .estimators import MLPClassifier, MLPRegressor

__all__ = ["CNNClassifier", "MLPClassifier", "MLPRegressor"]
for _estimator in (CNNClassifier, MLPClassifier, MLPRegressor):  # pickles name the module that users import
    _estimator.__module__ = __name__
__dir__ = functools.partial(sorted, __all__)
