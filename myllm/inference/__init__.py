"""Inference: a model writes, token by token."""
