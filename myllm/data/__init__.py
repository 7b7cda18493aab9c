"""Data: corpora, cleaning, splits."""
