#!/usr/bin/env python3
"""Writes manual pages and completions for bash and zsh from what the programs' --help prints.

    packaging/help_files.py PROGRAMS OUT --version VERSION

OUT gets man1/, bash-completion/ and zsh/.
"""

import argparse
import re
import subprocess
from pathlib import Path

OPTION = re.compile(r"^ {2}(?:-\w \[ )?(--[a-z][\w-]*)", re.MULTILINE)
SETTING = re.compile(r"^([a-z]+\.\w+)  ", re.MULTILINE)

MAN = """.TH {title} 1 "" "mtp {version}" "mtp"
.SH NAME
{program} \\- a program of mtp, which trains a Gemma 4 base and its drafter together
.SH DESCRIPTION
.nf
{text}
.fi
.SH EXIT STATUS
0: done; 1: failed; 2: wrong usage; 75: stopped by a signal, with a checkpoint written.
"""

BASH = """complete -o default -W "{words}" {program}
"""

ZSH = """#compdef {program}
local -a options=({words})
if [[ $PREFIX == -* ]]; then compadd -a options; else _files; fi
"""


def help_of(program: Path) -> str:
    return subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout


def words_of(text: str) -> list[str]:
    return [*dict.fromkeys(OPTION.findall(text)), *(f"--{name}" for name in SETTING.findall(text))]


def as_roff(text: str) -> str:
    """A line that begins with a dot or an apostrophe is a request otherwise, a backslash an escape."""
    return re.sub(r"^(?=[.'])", r"\\&", text.rstrip().replace("\\", "\\e").replace("-", "\\-"), flags=re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--version", required=True)
    args = parser.parse_args()
    for folder in ("man1", "bash-completion", "zsh"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    for path in sorted(args.programs.glob("mtp-*")):
        text, program = help_of(path), path.name
        words = " ".join(words_of(text))
        man = MAN.format(title=program.upper(), version=args.version, program=program, text=as_roff(text))
        (args.out / "man1" / f"{program}.1").write_text(man)
        (args.out / "bash-completion" / program).write_text(BASH.format(words=words, program=program))
        (args.out / "zsh" / f"_{program}").write_text(ZSH.format(words=words, program=program))


if __name__ == "__main__":
    main()
