"""Choice between an operation's plain definition and the forms of platforms."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from jaxtyping import Array

from jaxdiff.ops.arrays import Images

_TRACING_FOR: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "tracing_for", default=None
)


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Choose forms while tracing, for derivatives whose products are taken in loops.

    Parameters
    ----------
    platform
        The platform that the traced function is compiled for, such as "cpu".
    """
    # Each order of derivatives of a choice made while compiling multiplies its branches: three
    # orders of a U-Net's take minutes to trace.
    token = _TRACING_FOR.set(platform)
    try:
        yield
    finally:
        _TRACING_FOR.reset(token)


def is_tracing_for_cpu() -> bool:
    """Whether `tracing_for` a CPU is in effect."""
    return _TRACING_FOR.get() == "cpu"


def platform_dispatch(
    cpu_form: Callable[..., Array],
    plain_form: Callable[..., Array],
    *inputs: Array,
    **accelerator_forms: Callable[..., Array],
) -> Array:
    """The platform's form of the inputs where compiled for it, the plain form elsewhere.

    Forms of accelerators are named by JAX's names of platforms: "cuda", "rocm", "tpu".
    Within `tracing_for` there are the CPU form and the definition alone: a form of an accelerator
    need not have derivatives of derivatives.
    """
    platform = _TRACING_FOR.get()
    if platform is not None:
        form = cpu_form if platform == "cpu" else plain_form
        return form(*inputs)
    return jax.lax.platform_dependent(
        *inputs, default=plain_form, cpu=cpu_form, **accelerator_forms
    )


def fusion_barrier(x: Images) -> Images:
    """The same images; on a CPU no fusion spans this point, forward or backward."""
    # Before a group norm, XLA otherwise fuses the norm's whole backward pass into the transposed
    # copies that the gradients of convolution kernels need, where it runs with strides: the
    # barrier gains 12 % of a train step.
    return platform_dispatch(jax.lax.optimization_barrier, lambda x: x, x)
