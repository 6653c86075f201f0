"""A worker that computes nothing, for tests/test_benchmarks.py."""

import json
import sys
import time

from benchmarks.turns import serve

TASK = json.loads(sys.argv[1])


def prepare() -> dict:
    if TASK["fails"]:
        raise RuntimeError("this worker was told to fail")
    time.sleep(TASK["compiles"])
    return {}


if __name__ == "__main__":
    serve(lambda calls: time.sleep(0.01 * calls), 32, 0.05, prepare=prepare)
