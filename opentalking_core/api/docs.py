"""/openapi.json; and /docs, the same for people to read: a page without scripts that needs nothing from elsewhere."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import re
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import falcon
import falcon.asgi

from .conditional import is_unchanged
from .openapi import openapi_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from falcon.asgi import Request, Response

_STYLE = Path(__file__).with_name("docs.css")
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_docs(app: falcon.asgi.App[Any, Any]) -> None:
    """Serve the document of `app`, which is made when it is first asked for, and the page."""

    @functools.cache
    def document() -> dict[str, Any]:
        return openapi_document(app)

    def as_json() -> bytes:
        return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()

    app.add_route("/openapi.json", _Page(falcon.MEDIA_JSON, as_json))
    app.add_route("/docs", _Page("text/html; charset=utf-8", lambda: docs_page(document()).encode()))
    app.add_route("/docs.css", _Page("text/css; charset=utf-8", _STYLE.read_bytes))


class _Page:
    """What is made once and stays the same."""

    def __init__(self, content_type: str, make: Callable[[], bytes]) -> None:
        self._content_type = content_type
        self._make = functools.cache(make)
        self._started = time.time()

    async def on_get(self, req: Request, resp: Response) -> None:
        data = await asyncio.to_thread(self._make)
        resp.content_type = self._content_type
        resp.set_header("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        if not is_unchanged(req, resp, hashlib.sha256(data).hexdigest()[:16], self._started):
            resp.data = data

    on_head = on_get


def docs_page(document: dict[str, Any]) -> str:
    """An OpenAPI document as HTML."""
    info = document["info"]
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method in ("get", "post", "delete")
        if (operation := methods.get(method)) and "x-alias-of" not in operation
    ]
    sections = [
        (tag, [_operation(*entry) for entry in operations if tag["name"] in entry[2]["tags"]])
        for tag in document["tags"]
    ]
    links = [
        (operation["operationId"], f"{_method(method)} <code>{_path(path)}</code>")
        for tag in document["tags"]
        for method, path, operation in operations
        if tag["name"] in operation["tags"]
    ]
    schemas = document["components"]["schemas"]
    links += [(f"schema-{name}", f"<code>{escape(name)}</code>") for name in sorted(schemas)]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<title>{title}: API</title><link rel="stylesheet" href="docs.css"></head><body>',
            f"<header><h1>{title}</h1>{_prose(info['description'])}",
            '<p>For programs: <a href="openapi.json">openapi.json</a></p></header>',
            '<nav aria-label="Contents"><ul>',
            *(f'<li><a href="#{escape(anchor)}">{text}</a></li>' for anchor, text in links),
            "</ul></nav><main>",
            *(
                f"<section><h2>{escape(tag['name'].capitalize())}</h2>{_prose(tag['description'])}{''.join(articles)}"
                "</section>"
                for tag, articles in sections
                if articles
            ),
            "<section><h2>Schemas</h2>",
            *(_schema(name, schemas[name]) for name in sorted(schemas)),
            "</section></main></body></html>",
        )
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    key = "<p>A key may be needed: <code>Authorization: Bearer &lt;key&gt;</code></p>"
    return (
        f'<article id="{escape(operation["operationId"])}">'
        f"<h3>{_method(method)} <code>{_path(path)}</code></h3>"
        f"<p><strong>{escape(operation['summary'])}.</strong></p>{_prose(operation['description'])}"
        f"{key if 'security' in operation else ''}{_parameters(operation)}{_form(operation)}"
        f"{_curl(method, path, operation)}<h4>Answers</h4>"
        f"{''.join(_answer(status, answer) for status, answer in operation['responses'].items())}</article>"
    )


def _parameters(operation: dict[str, Any]) -> str:
    rows = [
        (f"<code>{escape(parameter['name'])}</code>", parameter["in"], _type(parameter["schema"]),
         _inline(parameter["description"]))
        for parameter in operation["parameters"]
    ]  # fmt: skip
    return _table("Parameters", ("name", "in", "type", ""), rows)


def _form(operation: dict[str, Any]) -> str:
    if "requestBody" not in operation:
        return ""
    ((content_type, content),) = operation["requestBody"]["content"].items()
    schema = content["schema"]
    return _table(f"Form ({content_type})", ("field", "type", "needed", ""), _properties(schema))


def _curl(method: str, path: str, operation: dict[str, Any]) -> str:
    examples = {parameter["name"]: str(parameter.get("example", "")) for parameter in operation["parameters"]}
    url = re.sub(r"\{(\w+)}", lambda match: examples[match[1]], path)
    command = ["curl", *([f"-X {method.upper()}"] if method == "delete" else []), f"http://localhost:8000{url}"]
    if "requestBody" in operation:
        ((_, content),) = operation["requestBody"]["content"].items()
        values = {"name": "Alice", "base_avatar_id": "demo-wav2lip", "image": "@portrait.jpg"}
        command += [f"-F {name}={values[name]}" for name in content["schema"]["properties"]]
    return f"<pre><code>{escape(' '.join(command))}</code></pre>"


def _answer(status: str, answer: dict[str, Any]) -> str:
    parts = []
    for content_type, content in answer.get("content", {}).items():
        examples = [content["example"]] if "example" in content else []
        examples += [example["value"] for example in content.get("examples", {}).values()]
        kind = f": {_type(content['schema'])}" if "schema" in content else ""
        parts.append(f"<p><code>{escape(content_type)}</code>{kind}</p>")
        parts += [
            f"<pre><code>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</code></pre>"
            for example in examples
        ]
    names = ", ".join(f"<code>{escape(name)}</code>" for name in answer["headers"])
    good = "good" if status < "400" else "bad"
    return (
        f'<details><summary><span class="{good}">{status}</span> {_inline(answer["description"])}</summary>'
        f"{''.join(parts)}<p>Headers: {names}</p></details>"
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    rows = _properties(schema)
    return (
        f'<article id="schema-{escape(name)}"><h3>{escape(name)}</h3>{_prose(schema.get("description", ""))}'
        f"{_table('', ('field', 'type', 'always', ''), rows)}</article>"
    )


def _properties(schema: dict[str, Any]) -> list[tuple[str, ...]]:
    required = schema.get("required", ())
    return [
        (f"<code>{escape(name)}</code>", _type(field), "yes" if name in required else "no",
         _inline(field.get("description", "")))
        for name, field in schema["properties"].items()
    ]  # fmt: skip


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    bounds = {"minimum": "from ", "exclusiveMinimum": "above ", "maximum": "to ", "maxLength": "at most "}
    words = [f"{word}{schema[key]}" for key, word in bounds.items() if key in schema]
    return escape(" ".join([schema.get("format", schema.get("type", "anything")), *words]))


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    heading = f"<h4>{escape(title)}</h4>" if title else ""
    return f'{heading}<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _method(method: str) -> str:
    return f'<span class="method {escape(method)}">{escape(method.upper())}</span>'


def _path(path: str) -> str:
    return escape(path).replace("/", "/<wbr>")


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(paragraph)}</p>" for paragraph in text.strip().split("\n\n") if paragraph)


def _inline(text: str) -> str:
    """Markdown's `code` and **strong**, which are all that our descriptions use."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)
