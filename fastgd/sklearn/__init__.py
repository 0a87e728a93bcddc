"""Estimators that follow scikit-learn."""

from .estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
for _estimator in (MLPClassifier, MLPRegressor):  # pickles name the module that users import
    _estimator.__module__ = __name__
