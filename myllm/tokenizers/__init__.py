"""Tokenizers: text to ids and back. Never imports torch."""
