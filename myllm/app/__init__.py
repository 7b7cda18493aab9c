"""Applications of a finished model: an HTTP endpoint, a chat page, and a page that needs nothing else."""
