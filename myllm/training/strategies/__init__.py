"""How a training step is spread over processes: one file each."""
