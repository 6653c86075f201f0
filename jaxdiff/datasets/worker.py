"""A process that decodes and writes every n-th file of a dataset in preparation; see prepared.py.

Its argument is the task as JSON. It prints a JSON line from time to time: how many images are done, or what is wrong.
"""

import json
import sys

from etils import epath

from jaxdiff.datasets import prepared, sources


def main(task: dict) -> None:
    """Write the files first, first + every, ... of task["folder"]."""
    say = lambda **message: print(json.dumps(message), flush=True)  # noqa: E731
    try:
        source = sources.raw(**task["recipe"])
        chosen = range(task["first"], -(-len(source) // prepared.SHARD), task["every"])
        folder = epath.Path(task["folder"])
        prepared.write_records(source, folder, task["name"], chosen, lambda done: say(done=done))
    except ValueError as error:
        say(error=str(error))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
