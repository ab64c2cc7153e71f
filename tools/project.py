"""The project that a tool works on: its settings; and how a function becomes a command."""

from __future__ import annotations

import configparser
import inspect
import math
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TABLES = ("nbdev", "ground-up")  # of pyproject.toml, below `tool`; the last one wins
HOUSE_RULES = {"order", "names", "init"}


class ToolError(Exception):
    """A mistake of the user's; the command line prints it without a traceback."""


def show(path: str | Path) -> str:
    """The path as a reader wants it: below the working directory, with forward slashes."""
    path = Path(path)
    try:
        path = path.absolute().relative_to(Path.cwd())
    except ValueError:
        pass
    return path.as_posix()


# --- settings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """Where a project keeps its notebooks and its library, and every other setting by its name."""

    root: Path
    nbs: Path
    lib: Path
    values: dict[str, str]

    @property
    def house_rules(self) -> frozenset[str]:
        """Which of the rules that a project may choose are on: `true` means all, `false` none."""
        text = self.values.get("house_rules", "false").lower()
        words = {"true": HOUSE_RULES, "false": set()}.get(text, set(re.findall(r"\w+", text)))
        if wrong := words - HOUSE_RULES:
            valid = ", ".join(sorted(HOUSE_RULES))
            raise ToolError(f"house_rules: no rule {', '.join(sorted(wrong))}; "
                            f"write true, false, or some of {valid}")  # fmt: skip
        return frozenset(words)

    @property
    def numbered(self) -> bool:
        """Whether only notebooks with a number in front belong to the project."""
        return self.values.get("numbered", "false").lower() in ("true", "1", "yes")

    @property
    def recursive(self) -> bool:
        return self.values.get("recursive", "true").lower() not in ("false", "0", "no")


def settings(start: str | Path = ".") -> Settings:
    """Read the settings of the project that a folder belongs to.

    The project is the nearest folder, here or above, with a settings.ini or a pyproject.toml that
    has a table for these tools; the search ends where another project does. Without any of them
    it is the folder itself. `[tool.ground-up]` wins over settings.ini, and that over
    `[tool.nbdev]`.
    """
    start = Path(start).resolve()
    root = start
    for folder in [start, *start.parents]:
        content = read_toml(folder / "pyproject.toml")
        tool = content.get("tool")
        if (folder / "settings.ini").exists() or isinstance(tool, dict) and set(TABLES) & set(tool):
            root = folder
            break
        if content or (folder / ".git").exists():
            break
    values = all_values(read_toml(root / "pyproject.toml"), read_ini(root / "settings.ini"))
    lib_name = values.get("lib_name", "exp").replace("-", "_").replace(".", "_")
    nbs, lib = values.get("nbs_path") or "nbs", values.get("lib_path") or lib_name
    return Settings(root, root / nbs, root / lib, values)


def read_ini(path: Path) -> dict[str, str]:
    """The values of settings.ini; `%(name)s` stands for the value of another."""
    parser = configparser.ConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise ToolError(f"{show(path)} cannot be read: {error}") from None
    values = dict(parser.defaults())  # as written
    for name in values:
        try:
            values[name] = parser["DEFAULT"][name]
        except configparser.InterpolationError:
            pass  # a per cent sign that means itself
    return values


def read_toml(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, OSError) as error:
        raise ToolError(f"{show(path)} cannot be read: {error}") from None


def all_values(pyproject: dict, ini: dict[str, str]) -> dict[str, str]:
    """The values of pyproject.toml around those of settings.ini."""
    about, tool = (pyproject.get(name) for name in ("project", "tool"))
    about, tool = (part if isinstance(part, dict) else {} for part in (about, tool))
    nbdev, ours = (tool[name] if isinstance(tool.get(name), dict) else {} for name in TABLES)
    urls = about.get("urls") if isinstance(about.get("urls"), dict) else {}
    found = {"lib_name": about.get("name"), "description": about.get("description"),
             "git_url": urls.get("Repository") or urls.get("Source")}  # fmt: skip
    found = {name: value for name, value in found.items() if value}
    return {k: as_text(v) for k, v in {**found, **nbdev, **ini, **ours}.items()}


def as_text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(as_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- commands ------------------------------------------------------------------------------------


def cli(function: Callable) -> None:
    """Run a function as a command: a mistake of the user's is a message and exit code 1.

    The flags are those of the function's signature; `--help` is fire's. A terminal that cannot
    show a character gets it as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            import fire

            fire.Fire(function, ["--help"], name=Path(sys.argv[0]).stem)
            return
        names, options = parse(sys.argv[1:], function)
        function(*names, **options)
    except ToolError as error:
        sys.exit(str(error))
    except BrokenPipeError:  # the reader of the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a name that is too long, a folder that may not be read
        sys.exit(textwrap.shorten(str(error), 300, placeholder=" …"))


def parse(arguments: list[str], function: Callable) -> tuple[list[str], dict[str, object]]:
    """The names and the options on a command line, each option as its type hint wants it."""
    signature = inspect.signature(function).parameters.values()
    parameters = {p.name: p for p in signature if p.kind != p.VAR_POSITIONAL}
    letters = [name[0] for name in parameters]
    short = {name[0]: name for name in parameters if letters.count(name[0]) == 1}
    names, options, rest = [], {}, list(arguments)
    while rest:
        argument = rest.pop(0)
        match = re.fullmatch(r"--?([A-Za-z][\w-]*)(?:=(.*))?", argument, re.S)
        if not match or argument == "--":
            names.append(argument)
            continue
        name, value = match[1].replace("-", "_"), match[2]
        name = short.get(name, name)
        if name not in parameters and name.removeprefix("no") in parameters and value is None:
            name, value = name.removeprefix("no"), "false"
        if name not in parameters:
            valid = ", ".join(f"--{p}" for p in parameters)
            raise ToolError(f"unknown flag {argument.split('=')[0]}; the flags are {valid}")
        kinds = str(parameters[name].annotation)
        follows = bool(rest) and not re.match(r"--?[A-Za-z]", rest[0])
        if value is None and kinds != "bool" and follows:
            value = rest.pop(0)
        options[name] = convert(name, value, kinds)
    return names, options


def convert(name: str, value: str | None, kinds: str) -> object:
    """The value of an option; `kinds` is its type hint."""
    if value is None:
        if "bool" in kinds:
            return True
        raise ToolError(f"--{name} needs a value")
    if "str" in kinds:
        return value
    if "bool" in kinds:
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise ToolError(f"--{name} takes no value, got {value!r}")
    number, wanted = (int, "a whole number") if "int" in kinds else (float, "a number")
    try:
        result = number(value)
    except ValueError:
        result = math.nan
    if math.isnan(result):
        raise ToolError(f"--{name} takes {wanted}, got {value!r}")
    return result
