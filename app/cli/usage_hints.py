"""Name the command or the option that is meant by one that does not exist, such as those of Kafka's tools."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

_UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""Typer has no public name for the error of unknown commands and options."""

_UNKNOWN_COMMAND = re.compile(r"No such command '([^']{1,100})'\.")
_SAME = {
    "ls": "list",
    "show": "describe",
    "info": "describe",
    "get": "describe",
    "inspect": "describe",
    "rm": "delete",
    "del": "delete",
    "remove": "delete",
    "new": "create",
    "add": "create",
    "set": "alter",
    "update": "alter",
    "change": "alter",
    "lag": "offsets",
    "stop": "pause",
    "start": "resume",
    "help": "--help",
}
"""Usual words for commands of a group."""
_OF_PROGRAM = {
    "ls": "millrace topics list",
    "list": "millrace topics list, millrace groups list or millrace queues list",
    "show": "millrace topics describe TOPIC",
    "describe": "millrace topics describe TOPIC",
    "info": "millrace topics describe TOPIC",
    "create": "millrace topics create TOPIC",
    "new": "millrace topics create TOPIC",
    "alter": "millrace topics alter TOPIC",
    "config": "millrace topics alter TOPIC --config NAME=VALUE",
    "delete": "millrace topics delete TOPIC",
    "rm": "millrace topics delete TOPIC",
    "reset": "millrace groups reset GROUP TOPIC",
    "lag": "millrace groups offsets GROUP",
    "offsets": "millrace groups offsets GROUP",
    "work": "millrace queue work QUEUE -- COMMAND",
    "worker": "millrace queue work QUEUE -- COMMAND",
    "publish": "millrace produce TOPIC",
    "pub": "millrace produce TOPIC",
    "send": "millrace produce TOPIC",
    "write": "millrace produce TOPIC",
    "put": "millrace produce TOPIC",
    "subscribe": "millrace consume TOPIC --follow",
    "sub": "millrace consume TOPIC --follow",
    "tail": "millrace consume TOPIC --follow",
    "read": "millrace consume TOPIC",
    "fetch": "millrace consume TOPIC",
    "poll": "millrace consume TOPIC --group GROUP",
    "cat": "millrace consume TOPIC",
    "start": "millrace serve",
    "server": "millrace serve",
    "run": "millrace serve",
    "up": "millrace serve",
    "status": "millrace health",
    "ping": "millrace health",
    "upgrade": "millrace migrate",
    "init": "millrace migrate",
    "version": "millrace --version",
    "help": "millrace --help",
}
"""Usual words for commands of the program."""
_URL = "name the server with --url http://HOST:PORT or MILLRACE_URL"
_RESET = "use millrace groups reset GROUP TOPIC --to earliest, latest, an offset or @TIME"
_OPTIONS = {
    "bootstrap-server": _URL,
    "bootstrap-servers": _URL,
    "broker-list": _URL,
    "brokers": _URL,
    "zookeeper": _URL,
    "server": _URL,
    "endpoint": _URL,
    "host": _URL,
    "port": _URL,
    "b": _URL,
    "from-beginning": "it is the default: consume starts at the first record, and a new group too; leave it out",
    "max-messages": "use --count NUMBER",
    "max-records": "use --count NUMBER",
    "limit": "use --count NUMBER",
    "replication-factor": "leave it out: the database of the server has the records",
    "reset-offsets": _RESET,
    "to-earliest": _RESET,
    "to-latest": _RESET,
    "to-offset": _RESET,
    "to-datetime": _RESET,
    "from-file": "use --format, and the file as an argument: millrace produce TOPIC FILE",
    "property": "the properties of Kafka's clients have no effect here; leave it out",
    "producer-property": "the properties of Kafka's clients have no effect here; leave it out",
    "consumer-property": "the properties of Kafka's clients have no effect here; leave it out",
    "command-config": "the properties of Kafka's clients have no effect here; leave it out",
    "v": "use millrace --version",
    "V": "use millrace --version",
}
"""Options of Kafka's tools and of others, by name."""
_CONFIGURATION = re.compile(r"(cleanup|retention|max-message|message-timestamp|delete-retention|min-compaction)[-_.].+")
_SHORT = {"t": "topic", "g": "group", "q": "queue"}


class ProgramGroup(TyperGroup):
    """A group of commands: alone it prints its help, and its errors name the command or option that is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - Typer's context
        """Parse the arguments; without any, print the help and exit with 0."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            print(ctx.get_help())
            raise typer.Exit
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            _add_hint(error)
            raise

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - Typer's context
        """Run a command; add hints to its errors of usage."""
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            _add_hint(error)
            raise


def _add_hint(error: Any) -> None:  # noqa: ANN401 - see _UsageError
    if error.ctx is None or getattr(error, "has_hint", False):
        return
    error.has_hint = True
    path = _path(error.ctx)
    if (option := getattr(error, "option_name", None)) is not None and error.message.startswith("No such option"):
        if hint := _option_hint(option, path, error.ctx.command):
            error.message, error.possibilities = f"{error.message}; {hint}", None
    elif unknown := _UNKNOWN_COMMAND.match(error.message):
        commands = list(getattr(error.ctx.command, "commands", {}))
        if hint := _command_hint(unknown[1], path, commands, error.ctx.find_root().command):
            error.message = f"No such command '{unknown[1]}'; {hint}"
        elif "Did you mean" not in error.message:
            error.message = f"No such command '{unknown[1]}'; the commands are {', '.join(commands)}"


def _path(context: Any) -> list[str]:  # noqa: ANN401 - Typer's context
    """Return the names of the command and of its groups, without the program's."""
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return names


def _option_hint(option: str, path: Sequence[str], command: Any) -> str | None:  # noqa: ANN401 - Typer's command
    """Return what is meant by an unknown option of a command, or None."""
    name = option.lstrip("-").partition("=")[0]
    if name in getattr(command, "commands", {}) and path:
        return f"use millrace {' '.join([*path, name])}"
    noun = _SHORT.get(name, name).replace("-", "_")
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    if any(noun in {each.name, each.name.removesuffix("s")} for each in arguments):
        metavars = " ".join(each.metavar or each.name.upper() for each in arguments)
        return f"it is an argument without a name: millrace {' '.join(path)} {metavars}"
    if path[:1] == ["topics"] and _CONFIGURATION.fullmatch(name):
        return f"use --config {name.replace('-', '_').replace('.', '_')}=VALUE"
    if name in {"v", "V"} and path:
        return None
    return _OPTIONS.get(name)


def _command_hint(
    word: str,
    path: Sequence[str],
    commands: Sequence[str],
    program: Any,  # noqa: ANN401 - Typer's command
) -> str | None:
    """Return what is meant by an unknown command of a group, or None."""
    if not path:
        return f"use {_OF_PROGRAM[word.lower()]}" if word.lower() in _OF_PROGRAM else None
    same = _SAME.get(word.lower(), word.lower())
    if same in commands or same == "--help":
        return f"use millrace {' '.join([*path, same])}"
    plural = program.commands.get(f"{path[-1]}s")
    if plural is not None and same in plural.commands:
        return f"use millrace {path[-1]}s {same}"
    return None
