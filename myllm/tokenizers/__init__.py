"""Tokenizers, which convert text to ids and back, without importing torch."""
