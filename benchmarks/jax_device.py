"""What a worker's device is and has taken, as JAX says it."""

import json

import jax

from benchmarks.turns import Answer


def describe_device() -> Answer:
    """The device's kind and, where it counts, the peak of its memory in MB."""
    device = jax.devices()[0]
    answer: Answer = {"device": device.device_kind}
    statistics = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        answer["device_peak_mb"] = statistics["peak_bytes_in_use"] / 1e6
    return answer


if __name__ == "__main__":
    print(json.dumps({"backend": jax.default_backend(), **describe_device()}))
