"""opentalking-core new-plugin"""

from __future__ import annotations

import enum
import keyword
import re
from pathlib import Path
from typing import Annotated

import typer


class Kind(enum.StrEnum):
    """The kinds of plugins that have a template."""

    storage = "storage"
    detector = "detector"
    model_type = "model-type"


def new_plugin(
    kind: Annotated[Kind, typer.Argument(help="What the plugin adds.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the plugin, such as my-cloud.")],
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write it. [default: ./opentalking-NAME]")
    ] = None,
) -> None:
    """Write a plugin package that works, with the tests that every plugin of its kind must pass."""
    from rich.markup import escape

    from .output import fail, out

    words = [word for word in re.split(r"[-_ ]+", name.lower()) if word]
    snake, dashed = "_".join(words), "-".join(words)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", snake) or keyword.iskeyword(snake):
        fail(f"{name!r} can't be a plugin's name: use letters, digits and hyphens, such as my-cloud")
    if (taken := _taken(snake)) is not None:
        fail(f"the plugin {snake!r} is there already, from {taken}: choose another name")
    folder = directory or Path(f"opentalking-{dashed}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fail(f"{folder} is there already: name another one with --directory")

    # A template is itself a plugin, named "example", so that it is checked and tested like any other code.
    names = (
        ("opentalking-example", f"opentalking-{dashed}"),
        ("example://", f"{dashed}://"),
        ("Example", "".join(word.capitalize() for word in words)),
        (r"example(?!_manifest)", snake),
    )

    def renamed(text: str) -> str:
        for old, new in names:
            text = re.sub(old, new, text)
        return text

    template = Path(__file__).parent.parent / "plugin_templates" / kind.name
    for source in sorted(template.rglob("*")):
        if source.is_file() and "__pycache__" not in source.parts:
            target = folder / renamed(str(source.relative_to(template)))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(renamed(source.read_text("utf-8")), "utf-8")
    out.print(f"wrote a {kind} plugin to {escape(str(folder))}; next:", soft_wrap=True)
    out.print(escape(f"  pip install -e '{folder}[testing]'\n  pytest {folder}"), soft_wrap=True)


def _taken(name: str) -> str | None:
    """Return the distribution of the installed plugin of this name, if there is one."""
    import importlib.metadata

    for entry_point in importlib.metadata.entry_points(group="opentalking", name=name):
        return entry_point.dist.name if entry_point.dist else "somewhere"
    return None
