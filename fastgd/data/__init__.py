"""Arrays of rows: checked, shuffled, cut into minibatches."""
