"""Estimators with the interface and the results of scikit-learn's (extra `sklearn`)."""

from .estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
