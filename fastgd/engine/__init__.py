"""What makes a network run: programs of kernels, plans, steps, the executor."""
