"""What everything stands on: kernels and their bodies, checks, buffers, threads."""
