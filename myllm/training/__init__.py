"""Training: one loop, small objectives, and strategies that spread a step over processes."""
