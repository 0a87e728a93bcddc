"""Arrays of rows: checks, shuffling, minibatches."""
