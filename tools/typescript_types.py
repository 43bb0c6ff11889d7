"""Write the TypeScript types of the API, made from the OpenAPI document, into docs/opentalking-core.d.ts.

The types are the document's schemas, and for each operation the path, the method and the JSON bodies. With `--check`,
nothing is written, and the exit code is 1 if the file is not what would be written.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from opentalking_core.api import create_app
from opentalking_core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    Json = Any

TYPES = Path(__file__).parent.parent / "docs" / "opentalking-core.d.ts"

_HEAD = """\
// The types of opentalking-core's HTTP API. Made from /openapi.json by tools/typescript_types.py: don't edit this file.
"""

_SIMPLE = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}


def main() -> None:
    """Write the file, or check it."""
    text = typescript(asyncio.run(_served_document()))
    if sys.argv[1:] != ["--check"]:
        TYPES.write_text(text, encoding="utf-8")
    elif not TYPES.exists() or TYPES.read_text(encoding="utf-8") != text:
        sys.exit(f"{TYPES.name} differs from the API: run {Path(__file__).name} and commit the file")


def typescript(document: Json) -> str:
    """Return the types of an OpenAPI document."""
    schemas = document["components"]["schemas"]
    types = [f"{_comment(schema)}export type {name} = {type_of(schema)};" for name, schema in schemas.items()]
    operations = "\n".join(_operations(document))
    return "\n\n".join([_HEAD.rstrip(), *types, f"export interface Operations {{\n{operations}\n}}"]) + "\n"


def type_of(schema: Json) -> str:
    """Return the TypeScript type of a JSON schema.

    Raises:
        ValueError: the schema has a form that this function doesn't know.
    """
    if isinstance(schema, bool):
        return "unknown" if schema else "never"
    return _typed(schema)


def _typed(schema: Json) -> str:
    match schema:
        case {"$ref": reference}:
            return str(reference).rpartition("/")[2]
        case {"const": value}:
            return json.dumps(value)
        case {"enum": values}:
            return " | ".join(map(json.dumps, values))
        case {"anyOf": choices} | {"oneOf": choices}:
            return " | ".join(map(type_of, choices))
        case {"type": list(kinds)}:
            return " | ".join(type_of({**schema, "type": kind}) for kind in kinds)
        case {"type": "string", "format": "binary"}:
            return "Blob"
        case {"type": "array"}:
            return f"Array<{type_of(schema.get('items', True))}>"
        case {"type": "object"}:
            return _object(schema)
        case {"type": kind} if kind in _SIMPLE:
            return _SIMPLE[kind]
    if not schema.keys() - {"description", "default", "example", "title"}:
        return "unknown"
    raise ValueError(f"no TypeScript type for the schema {schema!r}")


def _object(schema: Json) -> str:
    required = schema.get("required", ())
    members = [
        f"{_comment(field)}{json.dumps(name)}{'' if name in required else '?'}: {type_of(field)};"
        for name, field in schema.get("properties", {}).items()
    ]
    members += [f"{json.dumps(name)}: unknown;" for name in required if name not in schema.get("properties", {})]
    further = schema.get("additionalProperties", not members)
    if further is not False:
        # Members must be assignable to the index signature, so that it is `unknown` beside others.
        members.append(f"[key: string]: {'unknown' if members else type_of(further)};")
    return "{\n" + _indented("\n".join(members)) + "\n}" if members else "Record<string, never>"


def _operations(document: Json) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method == "head" or "x-alias-of" in operation:
                continue
            members = [f'method: "{method.upper()}";', f"path: {json.dumps(path)};"]
            if body := _body(operation.get("requestBody", {})):
                members.append(f"body: {body};")
            if answer := _body(operation["responses"].get("200", {})):
                members.append(f"response: {answer};")
            block = "{\n" + _indented("\n".join(members)) + "\n};"
            yield _indented(f"/** {operation['summary'].replace('*/', '* /')} */\n{operation['operationId']}: {block}")


def _body(described: Json) -> str:
    """Return the type of the body of a request or a response, "" if it has no schema."""
    schemas = [content["schema"] for content in described.get("content", {}).values() if "schema" in content]
    return " | ".join(dict.fromkeys(map(type_of, schemas)))


def _comment(schema: Json) -> str:
    text = schema.get("description", "") if isinstance(schema, dict) else ""
    return f"/** {' '.join(text.split()).replace('*/', '* /')} */\n" if text else ""


def _indented(text: str) -> str:
    return re.sub(r"^(?=.)", "  ", text, flags=re.MULTILINE)


async def _served_document() -> Json:
    transport = httpx.ASGITransport(create_app(Settings(avatars_dir="memory://docs")))
    async with httpx.AsyncClient(transport=transport, base_url="http://docs") as client:
        return (await client.get("/openapi.json")).json()


if __name__ == "__main__":
    main()
