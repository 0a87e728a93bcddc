"""Estimators with the interface and the results of scikit-learn's (extra `sklearn`)."""

from .estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
for _estimator in (MLPClassifier, MLPRegressor):  # pickles name the module that users import
    _estimator.__module__ = __name__
