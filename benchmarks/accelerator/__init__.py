"""All figures of an accelerator by one command; see docs/benchmarks.md."""
