"""The model: masks, attention, layers, one Transformer.

Shapes are written with the same letters everywhere:

    B  batch            rows that are computed together
    T  query length     positions that attend
    S  key length       positions that are attended to
    H  heads            of the queries
    K  kv heads         of keys and values; K divides H
    D  head dimension   numbers a head works with
    C  width            width of the residual stream
    V  vocabulary       tokens the model chooses from
"""
