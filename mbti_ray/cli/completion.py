"""`mbti-ray completion`: a script that completes commands, presets, options and keys in a shell."""

import argparse
from collections.abc import Sequence

from mbti_ray.cli.command import build_parser, run_command
from mbti_ray.cli.tables import Result, console
from mbti_ray.config import PRESETS, StudyConfig
from mbti_ray.config.settings import config_addresses
from mbti_ray.errors import ConfigError

COMMANDS = "train tune evaluate compare predict export serve audit doctor config completion"
OPTIONS = (
    "--help --json --resume --fresh --input --output --part-rows --base-rates --split --report "
    "--to --license --language --roll-out --roll-back --gate --cluster"
)
# Bash takes `=` for the end of a word: a key is completed with it, and after it a file name.
_SCRIPT = """\
_mbti_ray() {
  local word=${COMP_WORDS[COMP_CWORD]} words="@words"
  COMPREPLY=()
  [ "$COMP_CWORD" = 1 ] && words="@commands"
  [ "$word" = = ] && return
  [ "${COMP_WORDS[COMP_CWORD-1]}" = = ] && return
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _mbti_ray mbti-ray
"""
_BEFORE = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "completion",
        "Print a script that completes commands, presets, options and keys.",
        prog="mbti-ray ",
        items="bash (default) or zsh",
        examples=('bash    # in ~/.bashrc: eval "$(mbti-ray completion bash)"',),
    )
    return run_command(parser, _complete, argv)


def _complete(options: argparse.Namespace) -> Result:
    shell, *more = options.items or ["bash"]
    if more or shell not in _BEFORE:
        raise ConfigError(
            f'command line: "{" ".join(options.items)}" is not a shell; allowed: '
            f"{', '.join(_BEFORE)}"
        )
    keys = [f"{address}=" for address in config_addresses(StudyConfig)]
    words = " ".join([*PRESETS, *OPTIONS.split(), *keys])
    script = _BEFORE[shell] + _SCRIPT.replace("@words", words).replace("@commands", COMMANDS)
    if not options.json:
        console.print(script, end="", soft_wrap=True)
    return {"shell": shell, "script": script}
