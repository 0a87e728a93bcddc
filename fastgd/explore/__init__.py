"""What one does around training: sweeps, range tests, loss surfaces, gradient checks."""
