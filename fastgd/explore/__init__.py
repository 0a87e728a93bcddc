"""Experiments around training: sweeps, range tests, loss surfaces, gradient checks."""
