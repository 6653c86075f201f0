"""Operations of the networks: each one's plain definition, and the forms that platforms run fast.

`dispatch.platform_dispatch` chooses. The CPU forms were chosen by measurement on two cores
(benchmarks/train.py). Plain automatic differentiation of them is what is fast, so that all of
JAX's transformations work as on the definitions.
"""
