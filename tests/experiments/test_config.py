"""What is wrong with a config file is one sentence: the file, and the line or the key."""

import pytest

from experiments import _errors
from experiments._config import _check_overrides, _ConfigFileParser, _TupleParser
from experiments._errors import ConfigFileError
from jaxdiff.settings import StudySettings
from jaxdiff.study import grid

BEGIN = """\
from jaxdiff.study.config import default_config
def get_config(*arguments):
    config = default_config()
"""


def write_config(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return str(path)


def load(path):
    return _ConfigFileParser(StudySettings).parse(path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("config.train.stepz = 5; return config", "config.train.stepz does not exist; did you"),
        ("config.stepz = 5; return config", "config.stepz does not exist; did you mean config."),
        ("del config.train; return config", "config.train is missing; begin with default_config"),
        ("del config.data.dir; return config", "config.data.dir is missing"),
        ("del config.train; config.train = 5; return config", "config.train must be a section"),
        ("return config.to_dict()", "must return a ConfigDict, got a dict"),
        ("return None", "must return a ConfigDict, got a NoneType"),
        ("return [config]", "must return a ConfigDict, got a list"),
        ("raise KeyError('boom')", "line 4: KeyError: 'boom'"),
        ("raise OSError('boom')", "line 4: OSError: boom"),
        ("return 1 + 'a'", "line 4: TypeError: unsupported operand"),
        ("config.train.steps = 'many'", "line 4: TypeError: Could not override field 'steps'"),
        ("import sys; sys.exit(0)", "line 4: the file ends the process"),
        ("raise SystemExit", "line 4: the file ends the process"),
        ("return get_config()", "RecursionError: maximum recursion depth"),
    ],
)
def test_what_get_config_does(line, sentence, tmp_path):
    path = write_config(tmp_path, f"{BEGIN}    {line}\n")
    with pytest.raises(ConfigFileError) as error:
        load(path)
    assert path in str(error.value)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "must define get_config"),
        ("get_config = 1", "must define get_config"),
        ("def get_config(:", "line 1: SyntaxError"),
        ("import sys\nsys.exit(3)", "line 2: the file ends the process"),
        ("import no_such_module", "line 1: ModuleNotFoundError"),
        ("def get_config(a, b): pass", "TypeError: get_config"),
        ("\0", "null bytes"),
    ],
)
def test_what_the_file_holds(text, sentence, tmp_path):
    with pytest.raises(ConfigFileError, match=sentence):
        load(write_config(tmp_path, text))
    with pytest.raises(ConfigFileError, match="there is no config file"):
        load(str(tmp_path / "other.py"))
    with pytest.raises(ConfigFileError, match="there is no config file"):
        load(str(tmp_path))


def test_an_argument_after_a_colon(tmp_path):
    path = write_config(tmp_path, f"{BEGIN}    config.name = arguments[0]\n    return config\n")
    config = load(path + ":other")
    assert config.name == "other"
    with pytest.raises(AttributeError):
        config.stepz = 5


@pytest.mark.parametrize("text", ["{1: 2}", "{1, 2}", "{}", "b'ab'", "b''"])
def test_a_flag_of_a_tuple_takes_no_set_dict_or_bytes(text):
    with pytest.raises(ValueError, match="a tuple is expected, got "):
        _TupleParser().parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("(1, 2)", (1, 2)), ("[1, 2]", (1, 2)), ("5", (5,)), ("ab", ("ab",)), ((3,), (3,))],
)
def test_a_flag_of_a_tuple(text, value):
    assert _TupleParser().parse(text) == value


@pytest.mark.parametrize("flag", ["--config.train={}", "-config.train={'steps': 5}"])
def test_a_section_is_not_replaced_by_a_flag(flag):
    """The file's other settings of it would fall back to their defaults."""
    with pytest.raises(ConfigFileError, match=r"config.train is a section; set its keys one"):
        _check_overrides(["sweep", flag], StudySettings)
    with pytest.raises(ConfigFileError, match=r"config.data is a section"):
        _check_overrides(["sweep", "--config.data", "{}"], StudySettings)
    _check_overrides(["sweep", "--config.train.steps=5", "--config.name=train"], StudySettings)


@pytest.mark.parametrize(("argument", "prefix"), [("", "mine.py: "), ("=5", "")])
def test_a_value_of_the_file_is_named_with_the_file(argument, prefix):
    argv = ["sweep", "--config=mine.py", f"--config.train.batch{argument}"]
    sentence = _errors.explain_input(argv, ValueError("config.train.batch must be 1"), None)
    assert sentence == f"{prefix}config.train.batch must be 1"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": {"2": None}}, "config.models.2 must be a row, as '2', or a dict"),
        ({"models": {"2": {1: "2"}}}, "config.models.2 must be a row, as '2', or a dict"),
        ({"models": {"2": {"row": ["2"]}}}, "is not known"),
        ({"models": {"2": {"type": ["x"]}}}, "config.models.2 is of type"),
        ({"data": {"proportions": ("0.8",)}}, "config.data.proportions holds '0.8'"),
        ({"data": {"proportions": (("a", "b"),)}}, "config.data.proportions holds"),
        ({"data": {"proportions": ((True, False),)}}, "config.data.proportions holds"),
        ({"data": {"proportions": ((1.8, -0.8),)}}, "config.data.proportions holds"),
        ({"data": {"size": 10**6}}, "config.data.size must be at least 1 and at most 8192"),
        ({"seeds": (10**20,)}, r"config.seeds.0. must be at most 2,147,483,647"),
        ({"train": {"steps": 2**31}}, "config.train.steps must be at most 2,147,483,647"),
        ({"train": {"clip": float("inf")}}, "config.train.clip must be a finite number"),
        ({"train": {"clip": 10**400}}, "config.train.clip must be a finite number, got one of 401"),
        ({"diffusion": {"steps": 2 * 10**9}}, "config.diffusion.steps must be .* at most 1e"),
        ({"data": {"proportions": ((1e-9, 1),)}}, "1e-09, 1.0"),
        ({"data": {"source": "folder:"}}, "dataset 'folder:' is not complete; write folder:PATH"),
        ({"width": float("inf")}, "config.width must be above 0 and at most 64"),
        ({"secondary": (({}, "2"),)}, "config.secondary holds"),
        ({"seeds": (0, 1.5)}, r"config.seeds.1. must be a whole number, got 1.5"),
        ({"plugins": "abc"}, "config.plugins must be a tuple, got 'abc'"),
        ({"plugins": (5,)}, r"config.plugins.0. must be a string, got 5"),
        ({"plugins": ("",)}, "plugin '' cannot be imported .ValueError"),
        ({"plugins": (".x",)}, "plugin '.x' cannot be imported .TypeError"),
        ({"plugins": ("tests.experiments.bad_plugin",)}, "bad_plugin' cannot be imported"),
        ({"name": "../x"}, "config.name is '../x'"),
        ({"name": ""}, "config.name is ''"),
        ({"measures": {"inverted": 5}}, "config.measures.inverted is 5; it needs 3 seeds"),
    ],
)
def test_types_and_ranges(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid.expand(changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_out_channels", "abc"),
        ("block_out_channels", ()),
        ("block_out_channels", (-4, 8)),
        ("block_out_channels", (4.0, 8)),
        ("layers_per_block", -1),
        ("layers_per_block", 10**9),
        ("norm_num_groups", 0),
        ("norm_num_groups", "8"),
        ("attention_head_dim", 0),
        ("attention", 2),
        ("attention", (9,)),
        ("dropout", 1e9),
        ("dropout", "x"),
        ("flip_sin_to_cos", "zz"),
        ("mid_block", 1),
        ("act_fn", ["silu"]),
        ("sample_size", (1, 2, 3)),
        ("depth", 3),
        ("in_channels", 3),
        ("out_channels", 2),
    ],
)
def test_fields_of_a_model(field, value):
    with pytest.raises(ValueError, match=rf"config.models.2.*{field}"):
        grid.expand({"models": {"2": {"row": "2", field: value}}})
