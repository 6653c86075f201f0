"""--help of every command: what it does, three examples, and its flags, on one screen."""

import sys
import textwrap
from collections.abc import Sequence

from absl import flags

HELP_FLAGS = ("--help", "-help", "-h", "-?", "--helpshort")
CONFIG_HELP_FLAG = "--help_config"
WIDTH = 100
INDENT = 24


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks what the command does."""
    return any(argument in HELP_FLAGS for argument in argv[1:])


def asks_for_settings(argv: Sequence[str]) -> bool:
    """Whether a command line asks for every key of a config."""
    return "config" in flags.FLAGS and CONFIG_HELP_FLAG in argv[1:]


def format_help(description: str) -> str:
    """The description and a line or two for each flag of the command."""
    lines = [_format_flag(flag) for flag in _own_flags()]
    if "config" in flags.FLAGS:
        lines.append(_format_line(CONFIG_HELP_FLAG, "Every key of a config, with its default."))
    return "\n".join([description.strip(), "", *lines])


def format_settings(settings_class: type) -> str:
    """Every key of a config."""
    from jaxdiff.setting_fields import explain  # imports JAX, which most commands' help need not

    return f"Every key of a config, with its default:\n\n{explain(settings_class)}"


def study_settings() -> type:
    """The settings of a command that names no others."""
    from jaxdiff.settings import StudySettings  # imports JAX, which the environment comes before

    return StudySettings


def _own_flags() -> list[flags.Flag]:
    """Flags that the command or `experiments._cli` defines, as the code has them."""
    # absl has the flags of the main module under the name of the program.
    modules = [sys.argv[0], "__main__", "experiments._cli", "experiments._config"]
    by_module = flags.FLAGS.flags_by_module_dict()
    found = [flag for module in modules for flag in by_module.get(module, ())]
    return [flag for flag in found if "." not in flag.name]


def _format_flag(flag: flags.Flag) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    default = flag.default_as_str
    has_default = flag.default not in (None, [], "", False)
    note = f" [{default.strip(chr(39))}]" if has_default and default else ""
    help_text = flag.help.split(";\n")[0]  # absl adds that a flag may be repeated
    return _format_line(name, f"{help_text}{note}")


def _format_line(name: str, text: str) -> str:
    wrapped = textwrap.wrap(" ".join(text.split()), WIDTH - INDENT) or [""]
    first = f"  {name:<{INDENT - 3}} {wrapped[0]}"
    return "\n".join([first, *(" " * INDENT + line for line in wrapped[1:])])
