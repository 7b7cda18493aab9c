"""Weights: reading the files of published models, and writing files that other programs read."""
