"""Values of every setting of a study, by flag and by file, for `experiments.sweep --dry_run`."""

import functools
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdiff.setting_fields import Key, keys
from jaxdiff.settings import StudySettings
from jaxdiff.study import planned
from jaxdiff.study.cost import Cost
from tests.experiments.fuzz.boundary import Command, Input, Outcome, accept

BASE = "tests/experiments/tiny_study.py"
BEGIN = """\
from tests.experiments.tiny_study import get_config as tiny
def get_config():
    config = tiny()
    config.measures.lpips = "none"
"""
# No setting of the kind may have one of these; as a flag has them, and as a Python file has them.
HOSTILE_FLAGS = {
    int: ["", "x", "1.5", "nan", "1e3", "None", "[1]", "True", "-1", "9" * 30],
    float: ["", "x", "nan", "inf", "-1", "1e999", "None", "(1,)"],
    bool: ["", "maybe", "2", "None", "[]", "1.0"],
    str: [],
    tuple: ["x", "{1: 2}", "b'ab'", "(1,", "(None,)", "([],)", "nan", "5j", "({},)"],
}
HOSTILE_VALUES = {
    int: ["'7'", "7.5", "True", "None", "[7]", "nan", "10**30", "-1", "{}", "1j", "object()"],
    # ml_collections writes 1.0 for True before anything is read
    float: ["'0.5'", "None", "[0.5]", "nan", "inf", "-1.0", "10**400", "{}", "1j"],
    bool: ["'true'", "1", "0", "None", "[]", "2.0", "nan"],
    str: ["5", "None", "['a']", "b'digits'", "{}", "True", "nan"],
    tuple: ["'x'", "5", "None", "{}", "{1, 2}", "[nan]", "([],)", "(object(),)", "range(3)"],
    dict: ["None", "[]", "5", "'2'", "{}", "{'2': None}", "{'2': 5}", "{'': '2'}", "{'a/b': '2'}"],
}
HOSTILE_TEXTS = {
    "name": ["", "..", "../x", "a/b", "a b", "[x]", "\n"],
    "plugins": ["('no_such_module',)", "('',)", "('.x',)", "(5,)", "('os.path.join',)"],
    "seeds": ["()", "(0, 0)", "(0.5,)", "('a',)", "(-1,)", "(True,)"],
    "primary": ["('2',)", "('1', '1')", "('1', '9')", "(1, 2)"],
    "secondary": ["(('1', '9'),)", "(1,)", "('1', '2')", "((),)"],
    "look": ["1", "7"],
    "model_seeds": ["{'1': (0,)}", "{'9': (0,)}", "{'1': ()}", "{'1': 0}", "{'1': (7,)}"],
    "width": ["0", "65", "1e-9", "0.3"],
    "data.source": ["", "zz", "folder:", "folder:/no/such", "tfds:", "tfds:zz", "5", "digits:x"],
    "data.dir": ["/no/such", "README.md/x"],
    "data.attribute": ["zz"],
    "data.group": ["zz"],
    "data.classes": ["()", "(6,)", "(6, 6)", "(6, 9, 3)", "(6, 10)", "(-1, 6)", "('6', '9')"],
    "data.proportions": ["()", "(0.8,)", "((0.8,),)", "((0.8, 0.3),)", "((0.2, 0.8),)",
                         "((1e-9, 1),)", "((1e9, -1),)", "((0.4, 0.3, 0.2, 0.1),)", "(('a',),)"],
    "data.n": ["()", "(0,)", "(10**9,)", "(50, 50)", "(51,)", "(1.5,)", "(99999999,)"],
    "data.size": ["0", "8193", "100000"],
    "data.channels": ["2", "4"],
    "data.parts": ["0", "100000"],
    "diffusion.schedule": ["", "zz", "LINEAR", "5"],
    "diffusion.steps": ["0", "1", "2000000000"],
    "diffusion.prediction": ["", "epsilon", "5"],
    "train.init": ["/no/such", "README.md", "tests"],
    "train.dtype": ["", "float16", "int8"],
    "train.optimizer": ["", "zz"],
    "train.schedule": ["", "zz"],
    "train.accumulate": ["0", "3", "64"],
    "train.warmup": ["1.01"],
    "train.ema": ["1.01"],
    "sample.num": ["0", "2"],
    "sample.common": ["1"],
    "sample.method": ["", "zz", "DDIM"],
    "sample.steps": ["0", "1001"],
    "sample.eta": ["1.01"],
    "sample.dtype": ["", "float16"],
    "measures.share": ["", "zz"],
    "measures.lpips": ["", "zz", "alex"],
    "measures.spaces": ["()", "('vgg',)", "('pixels', 'zz')", "(1,)", "('pixels', 'inception')"],
    "measures.k": ["()", "(0,)", "(51,)", "('1',)", "(1.5,)"],
    "measures.inverted": ["5"],
    "measures.inception": ["/no/such"],
    "measures.weights_dir": ["/no/such"],
}  # fmt: skip
ACCEPTED = {
    "name": ("a-b_c.1", "a-b_c.1"),
    "seeds": ("(4, 2)", [4, 2]),
    "width": ("1", 1.0),
    "models": ("{'2': '2'}", {"2": "2"}),
    "data.classes": ("(3, 5)", [3, 5]),
    "data.proportions": ("((0.9, 0.1), (0.5, 0.5))", [[0.9, 0.1], [0.5, 0.5]]),
    "data.n": ("60", [60]),
    "data.size": ("32", 32),
    "data.channels": ("3", 3),
    "data.alternate": ("false", False),
    "data.parts": ("2", 2),
    "diffusion.schedule": ("cosine", "cosine"),
    "diffusion.steps": ("500", 500),
    "diffusion.prediction": ("x0", "x0"),
    "train.steps": ("7", 7),
    "train.batch": ("8", 8),
    "train.accumulate": ("4", 4),
    "train.flip": ("true", True),
    "train.dtype": ("bfloat16", "bfloat16"),
    "train.remat": ("1", True),
    "train.learning_rate": ("1e-3", 1e-3),
    "train.warmup": ("1", 1.0),
    "train.weight_decay": ("0", 0.0),
    "train.ema": ("0.9", 0.9),
    "train.keep_every": ("100", 100),
    "sample.num": ("3", 3),
    "sample.common": ("0", 0),
    "sample.eta": ("1", 1.0),
    "sample.clip": ("false", False),
    "sample.dtype": ("bfloat16", "bfloat16"),
    "measures.k": ("(1, 50)", [1, 50]),
    "measures.share": ("gated", "gated"),
    "measures.queries": ("0", 0),
}
UNKNOWN_FLAGS = (
    "--config.stepz=5",
    "--config.train.stepz=5",
    "--config.train=5",
    "--config.train={}",
    "--config.train={'steps': 5}",
    "--config.data={'n': [60]}",
    "-config.train={'steps': 5}",
    "--config.train.steps.x=5",
    "--config.=5",
    "--config..steps=5",
    "--config.models.1=3",
    "--config.models={}",
    "--config.data.n[0]=5",
    "--config.data.n[9]=5",
    "--config.data['n']=5",
    "--config.__class__=5",
    "--config.lock=5",
    "--config.keys=5",
    "--config.train.steps",
    "--noconfig.train.steps",
    "--config=README.md",
    "--config=/no/such.py",
    "--config=",
    "--cells=zz",
    "--shard=3/2",
    "--shard=x",
    "--redo=zz",
    "stray",
    "--zz",
)
MODELS = (
    "{'row': {'row': '2'}}",
    "{'row': 2}",
    "{'type': 'zz'}",
    "{'row': '2', 'zz': 1}",
    "{'row': '2', 'dropout': 1e9}",
    "{'row': '2', 'norm_num_groups': 3}",
    "{'row': '2', 'attention_head_dim': 7}",
    "{'row': '2', 'in_channels': 3}",
    "{'row': '2', 'block_out_channels': (8, 10**9)}",
    "{'row': '6'}",
)
FILES = (
    "",
    "\0",
    "x = 1",
    "get_config = 1",
    "def get_config(:",
    "def get_config(): pass",
    "def get_config(a): return a",
    "def get_config(): return {}",
    "def get_config(): return 1 / 0",
    "def get_config(): raise SystemExit",
    "def get_config(): return get_config()",
    "import sys; sys.exit(0)",
    "import no_such_module",
    "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()",
    f"{BEGIN}    del config.train\n    return config",
    f"{BEGIN}    del config.data.dir\n    return config",
    f"{BEGIN}    config.stepz = 5\n    return config",
    f"{BEGIN}    config.train.stepz = 5\n    return config",
    f"{BEGIN}    config.train.steps = 'many'\n    return config",
    f"{BEGIN}    del config.train\n    config.train = 5\n    return config",
    *(f"{BEGIN}    config.models = {{'2': {model}}}\n    return config" for model in MODELS),
)


def patch(sweep: Command, monkeypatch: Any) -> None:
    """End sweep where a run would begin, with its cells and the content of study.json."""
    check_study = sweep.module.check_study

    def check_and_accept(cells: Any, settings: Any, *rest: Any) -> None:
        check_study(cells, settings, *rest)
        accept((cells, settings))

    monkeypatch.setattr(sweep.module, "check_study", check_and_accept)
    # It traces the network, and most inputs have the same one.
    monkeypatch.setattr(planned, "count_parameters", functools.cache(planned.count_parameters))
    # It compiles and times the network, whatever the other settings are.
    monkeypatch.setattr(sweep.module, "estimate_cost", lambda *_, **__: Cost(1, 1, 1.0, 1))


def build(sweep: Command, folder: Path) -> Iterator[Input]:
    """All inputs of the area."""

    def run(*arguments: object) -> Outcome:
        flags = ("--dry_run", f"--workdir={folder / 'runs'}", "--config.measures.lpips=none")
        # The last of two equal flags counts.
        return sweep.run(f"--config={BASE}", *flags, *arguments)

    def run_file(text: str) -> Outcome:
        path = folder / "study.py"
        path.write_text(text)
        return sweep.run(f"--config={path}", "--dry_run", f"--workdir={folder / 'runs'}")

    for key in keys(StudySettings):
        yield from _values(key, run, run_file)
    for name, (text, value) in ACCEPTED.items():
        flag = f"--config.{name}={text}"
        yield Input(flag, lambda f=flag: run(f), lambda read, n=name, v=value: holds(read, n, v))
    for flag in UNKNOWN_FLAGS:
        yield Input(flag, lambda f=flag: run(f))
    for text in FILES:
        yield Input(f"a file {text[-60:]!r}", lambda t=text: run_file(t))


def _values(key: Key, run: Any, run_file: Any) -> Iterator[Input]:
    kind = typing.get_origin(key.kind) or key.kind
    leaf = key.name.rpartition(".")[2]
    for text in [*HOSTILE_FLAGS.get(kind, ()), *HOSTILE_TEXTS.get(key.name, ())]:
        flag = f"--config.{key.name}={text}"
        # the key, a plugin of plugins, or the value, without folder:
        named = (leaf, leaf.rstrip("s"), *filter(None, (text, text.rpartition(":")[2])))
        yield Input(flag, lambda f=flag: run(f), names=named)
    for text in HOSTILE_VALUES[kind]:
        if key.name == "model_seeds" and text == "{}":
            continue  # the default
        line = f"with config.ignore_type(): config.{key.name} = {text}"
        content = f"from math import inf, nan\n{BEGIN}    {line}\n    return config\n"
        yield Input(
            f"a file with {key.name} = {text}", lambda c=content: run_file(c), names=("study.py",)
        )


def holds(read: Any, name: str, value: Any) -> bool:
    """Whether the cells and study.json have this value of a setting."""
    cells, settings = read
    section, _, leaf = name.rpartition(".")
    written = settings[section][leaf] if section else settings[leaf]
    typed = getattr(getattr(cells[0], section, None), leaf, value)
    is_of_cell = name in ("data.n", "data.proportions")  # of which a cell has one
    return written == value and (is_of_cell or _plain(typed) == value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
