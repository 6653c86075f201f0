"""Softmax attention: the plain definition and the forms that a CPU, GPUs and TPUs run fast."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.ops.arrays import Heads
from jaxdiff.ops.dispatch import is_tracing_for_cpu, platform_dispatch

# Scores of a head (queries x keys) from which on the plain form takes one image at a time:
# 64 x 64 pixels have 2^24.
MAX_BATCHED_SCORES = 2**22

# Tokens from which on the CPU form takes one chunk of heads at a time.
MIN_CHUNKED_TOKENS = 128
# The same within `tracing_for`: a loop of products with derivatives would compute the scores of a
# chunk again in each product.
MIN_CHUNKED_TOKENS_IN_LOOPS = 1024
MAX_CHUNK_SCORES = 2**19  # 2 MiB, which stay in the cache

# Scores of a head from which on a GPU takes cuDNN's fused form. Forward and backward of 8 heads of
# 8 channels on an H200 (bfloat16, 256 images), plain and fused: .23 and .26 ms at 64 x 64 scores,
# 1.35 and .46 ms at 256 x 256.
MIN_FUSED_SCORES = 128 * 128

# A TPU's registers are this wide, so that its kernel takes multiples of so many tokens.
TPU_LANES = 128
# The most queries, and the most keys, whose scores a TPU has in its on-chip memory at a time: of
# float32 they take 1 MiB.
TPU_BLOCK = 512


def dot_product_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """Softmax attention, the scores divided by the root of dim.

    The softmax is float32, or wider where q is. (jax.nn.dot_product_attention has it in float32
    even for float64.)

    Parameters
    ----------
    q
        Queries [batch, token, head, dim].
    k, v
        Keys and values [batch, token, head, dim]; their tokens may be others than the queries'.

    Returns
    -------
    Array
        Mixed values, of the queries' shape.
    """
    forms = {}
    if _can_fuse(q, k, v):
        forms["cuda"] = fused_attention
    if _has_tpu_blocks(q, k):
        forms["tpu"] = blockwise_attention
    return platform_dispatch(cpu_attention, plain_attention, q, k, v, **forms)


def plain_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """The definition; long rows of tokens take one image at a time, to save memory."""
    scores = q.shape[1] * k.shape[1]
    if scores < MAX_BATCHED_SCORES:
        return _attend(q, k, v)
    # The limit is the scores of all heads of an image: a chunk is one image.
    return _attend_in_chunks(_attend, q.shape[2] * scores, q, k, v)


def _attend(q: Heads, k: Heads, v: Heads) -> Heads:
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    # Queries are scaled, and not the scores, which are many more.
    scaled = q * q.shape[-1] ** -0.5
    scores = jnp.einsum("bqhd,bkhd->bhqk", scaled, k, preferred_element_type=dtype)
    probs = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", probs, v)


def fused_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """The same by cuDNN in one kernel, which keeps no scores in memory; no forward-mode derivative.

    It takes bfloat16 and float16 alone.
    """
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _can_fuse(q: Heads, k: Heads, v: Heads) -> bool:
    """Whether `fused_attention` exists here, takes these arrays, and is faster."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    if q.shape[1] * k.shape[1] < MIN_FUSED_SCORES:
        return False
    # JAX asks cuDNN and the GPU while it traces, and raises where there is none (RuntimeError) or
    # where they do not take such arrays.
    try:
        jax.eval_shape(fused_attention, q, k, v)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def blockwise_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """The same by JAX's kernel for TPUs, which keeps scores on the chip; no forward derivative."""
    # Imported where it is used: the kernel's language takes a second to import.
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, flash_attention

    queries = math.gcd(q.shape[1], TPU_BLOCK)
    keys = math.gcd(k.shape[1], TPU_BLOCK)
    blocks = BlockSizes(
        block_q=queries,
        block_k_major=keys,
        block_k=keys,
        block_b=1,
        block_q_major_dkv=queries,
        block_k_major_dkv=keys,
        block_k_dkv=keys,
        block_q_dkv=queries,
        block_k_major_dq=keys,
        block_k_dq=keys,
        block_q_dq=queries,
    )
    # The kernel has heads before tokens.
    heads_first = (x.swapaxes(1, 2) for x in (q, k, v))
    mixed = flash_attention(*heads_first, sm_scale=q.shape[-1] ** -0.5, block_sizes=blocks)
    return mixed.swapaxes(1, 2)


def _has_tpu_blocks(q: Heads, k: Heads) -> bool:
    """Whether `blockwise_attention` takes these arrays; float32 keeps the definition."""
    is_whole = q.shape[1] % TPU_LANES == 0 and k.shape[1] % TPU_LANES == 0
    return is_whole and q.dtype == jnp.bfloat16


def cpu_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """The same with long rows of tokens cut into chunks of one image and a few heads.

    The backward pass computes the scores of a chunk again, so that they stay in the cache: with 32
    heads that is 1.5 times as fast as all heads at once.
    """
    tokens = q.shape[1]
    min_chunked = MIN_CHUNKED_TOKENS_IN_LOOPS if is_tracing_for_cpu() else MIN_CHUNKED_TOKENS
    if tokens < min_chunked:
        return _attend_keys_by_queries(q, k, v)
    return _attend_in_chunks(_attend_keys_by_queries, MAX_CHUNK_SCORES, q, k, v)


def _attend_in_chunks(
    attend: Callable[[Heads, Heads, Heads], Heads], max_scores: int, q: Heads, k: Heads, v: Heads
) -> Heads:
    """Attention of one image and a few heads at a time, at most `max_scores` scores of them."""
    batch, tokens, heads, dim = q.shape
    chunk_heads = _count_chunk_heads(heads, tokens * k.shape[1], max_scores)

    def split(x):
        tokens = x.shape[1]
        groups = x.reshape(batch, tokens, -1, chunk_heads, dim).swapaxes(1, 2)
        return groups.reshape(-1, tokens, chunk_heads, dim)

    # Without the checkpoint, the loop would keep the scores of all chunks for the backward pass.
    @jax.checkpoint
    def attend_chunk(qkv):
        q, k, v = qkv
        return attend(q[None], k[None], v[None])[0]

    chunks = jax.lax.map(attend_chunk, (split(q), split(k), split(v)))
    mixed = chunks.reshape(batch, -1, tokens, chunk_heads, dim).swapaxes(1, 2)
    return mixed.reshape(q.shape)


def _count_chunk_heads(heads: int, scores: int, max_scores: int) -> int:
    """The most heads, a divisor of all, with at most `max_scores`; `scores` is of one head."""
    limit = max(1, max_scores // scores)
    return max(n for n in range(1, heads + 1) if heads % n == 0 and n <= limit)


def _attend_keys_by_queries(q: Heads, k: Heads, v: Heads) -> Heads:
    """Attention with the scores laid out keys by queries."""
    keys = k.transpose(0, 2, 1, 3)
    queries = (q * q.shape[-1] ** -0.5).transpose(0, 2, 3, 1)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.matmul(keys, queries, preferred_element_type=wide)
    # The largest score only keeps the exponentials finite: the result does not depend on it.
    largest = jax.lax.stop_gradient(scores.max(axis=-2, keepdims=True))
    exps = jnp.exp(scores - largest).astype(v.dtype)

    # A row of ones below the values makes their product with the exponentials end with the sums
    # of the softmax; the division is then made on the small result.
    values = v.transpose(0, 2, 3, 1)
    values_and_ones = jnp.concatenate([values, jnp.ones_like(values[:, :, :1])], axis=-2)
    mixed = jnp.matmul(values_and_ones, exps, preferred_element_type=wide)
    mean = mixed[:, :, :-1] * (1.0 / mixed[:, :, -1:])
    return mean.astype(q.dtype).transpose(0, 3, 1, 2)
