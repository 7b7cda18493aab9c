"""What a finished model is put into: a page that needs nothing else."""
