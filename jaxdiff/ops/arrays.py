"""Shapes of the arrays that the operations take and return."""

from jaxtyping import Array, Float

# Only the batch must be the same in inputs and outputs: names with an underscore are not bound.
Images = Float[Array, "batch _height _width _channel"]
Kernel = Float[Array, "h w _inner _outer"]
Heads = Float[Array, "batch _token head dim"]  # queries and keys may differ in tokens
