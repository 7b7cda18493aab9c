"""Data: corpora and examples, cleaning, deduplication, splits, packing, shards and loaders."""
