"""Write the parts of the documentation that are generated from the code: `python docs/generate.py`.

In a page, the text between `<!-- generated: NAME -->` and `<!-- end -->` is the result of the function `NAME` below. A
test fails if a page is out of date.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import typer.main

from opentalking_core.api import create_app
from opentalking_core.cli import app
from opentalking_core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parent
_REGION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    """Return a table of all fields of `Settings`."""
    rows = ["| environment variable | default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        described = field.description or ""
        default = "" if field.default_factory else _default(field.default)  # else it is in the description
        rows.append(f"| `OPENTALKING_{name.upper()}` | {default} | {described} |")
    return "\n".join(rows)


def _default(value: object) -> str:
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case ():
            return "none"
        case float():
            return f"`{value:g}`"
        case _:
            return f"`{value}`"


def operations() -> str:
    """Return a table of all operations of the API, with the status codes of their responses."""
    document = asyncio.run(_served_document())
    rows = ["| operation | | answers |", "| --- | --- | --- |"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method == "head" or "x-alias-of" in operation or path.startswith(("/gallery", "/docs/")):
                continue
            rows.append(f"| `{method.upper()} {path}` | {operation['summary']} | {', '.join(operation['responses'])} |")
    return "\n".join(rows)


async def _served_document() -> Any:
    transport = httpx.ASGITransport(create_app(Settings(avatars_dir="memory://docs")))
    async with httpx.AsyncClient(transport=transport, base_url="http://docs") as client:
        return (await client.get("/openapi.json")).json()


def command_list() -> str:
    """Return a list of all commands, each with the first sentence of its help."""
    lines = [f"{name:<14}{_text(command.help).split(';')[0].split('. ')[0]}" for name, command in _all_commands()]
    return "\n".join(["```", *(line.rstrip(".") for line in lines), "```"])


def commands() -> str:
    """Return a section for each command, with its arguments and options."""
    return "\n\n".join(_command(name, command) for name, command in _all_commands())


def _all_commands() -> Iterator[tuple[str, Any]]:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if subcommands := getattr(command, "commands", None):
            yield from ((f"{name} {inner}", subcommands[inner]) for inner in subcommands)
        else:
            yield name, command


def _command(name: str, command: Any) -> str:
    arguments = [_usage(parameter) for parameter in command.params]
    lines = [
        f"### {name}",
        "",
        f"    opentalking-core {' '.join([name, *filter(None, arguments)])}",
        "",
        _text(command.help),
        "",
    ]
    rows = []
    for parameter in command.params:
        hidden = parameter.param_type_name == "option" and "--help" in parameter.opts
        if not hidden:
            shown = ", ".join(parameter.opts) if parameter.param_type_name == "option" else _argument(parameter)
            rows.append(f"| `{shown}` | {_text(parameter.help)}{_shown_default(parameter)} |")
    return "\n".join([*lines, *(["| | |", "| --- | --- |", *rows] if rows else [])]).rstrip()


def _usage(parameter: Any) -> str:
    """Return how a parameter appears in the usage line: an empty text for options that are not required."""
    if parameter.param_type_name == "argument":
        return _argument(parameter) if parameter.required else f"[{_argument(parameter)}]"
    return f"{parameter.opts[0]} {_argument(parameter)}" if parameter.required else ""


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper()).strip("[]{}")


def _shown_default(parameter: Any) -> str:
    default = parameter.default
    return f" Default: {default}." if default and default is not True and not parameter.required else ""


def _text(text: str | None) -> str:
    """Return `text` without line breaks inside paragraphs, and without brackets that Markdown would read as a link."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")]
    return re.sub(r"\[(default: .*?)\]", r"(\1)", "\n\n".join(paragraphs))


def generated(page: str) -> str:
    """Return `page` with its generated parts up to date."""
    return _REGION.sub(lambda region: f"{region[1]}{globals()[region[2]]()}\n{region[3]}", page)


if __name__ == "__main__":
    for file in (DOCS.parent / "README.md", *DOCS.glob("*.md")):
        before = file.read_text("utf-8")
        if (after := generated(before)) != before:
            file.write_text(after, "utf-8")
            print(f"wrote {file}")
