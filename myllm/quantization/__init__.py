"""Weights in few bits: grids, codebooks, layers that hold them, and how to choose the codes.

Shapes: a weight is (N, K), N outputs by K inputs, as in `torch.nn.Linear`. G is the number of groups of
consecutive columns of a row that share a scale.
"""
