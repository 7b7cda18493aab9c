"""Weights: published models read from their files, and written so that others read them."""
