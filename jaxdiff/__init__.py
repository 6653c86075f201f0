"""jaxdiff: what depth does to diffusion models, in JAX and Flax. Nothing is imported here on purpose."""
