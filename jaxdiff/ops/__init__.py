"""Operations of the networks: each one's plain definition beside the form that a CPU runs fast.

The CPU forms were chosen by measurement on two cores (benchmarks/train.py). Plain automatic
differentiation of them is what is fast, so that all of JAX's transformations work as on the
definitions.
"""
