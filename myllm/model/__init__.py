"""The model: masks, attention, layers, one Transformer.

Shapes are written with the same letters everywhere:

    B  batch            rows that are computed together
    T  query length     positions that attend
    S  key length       positions that are attended to
    H  heads            of the queries
    K  kv heads         of keys and values; K divides H
    D  head dimension   size of a query, key or value
    C  width            of the residual stream
    V  vocabulary       number of tokens
"""
