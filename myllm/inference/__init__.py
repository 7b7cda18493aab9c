"""Inference: a model generates text, token by token."""
