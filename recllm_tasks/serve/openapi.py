"""The service's description for programs (OpenAPI 3.1), and the same as a page for people."""

import html
import json
from typing import Any

from recllm_tasks import __version__
from recllm_tasks.serve import bodies


def schema(most_items: int) -> dict[str, Any]:
    """The OpenAPI description.

    Args:
      most_items: the largest k.
    """
    names = {"type": "array", "items": {"type": "string", "maxLength": bodies.MAX_NAME}}
    item = {
        "type": "object",
        "required": ["short_id", "item", "title"],
        "properties": {
            "short_id": {"type": "string", "description": "in the model's prompts"},
            "item": {"type": "string", "description": "as in the raw data"},
            "title": {"type": "string"},
        },
    }
    left_out = {
        "unknown": {**names, "description": "names that fit no item"},
        "ambiguous": {**names, "description": "names that fit several items"},
        "repeated": {**names, "description": "of an item, the first place counts"},
    }
    number = {"type": ["number", "null"]}
    recommended = {
        "type": "object",
        "required": [*item["required"], "log_prob", "probability", "source"],
        "properties": {
            **item["properties"],
            "log_prob": number,
            "probability": {**number, "description": "the model's, that it is the next item"},
            "source": {
                "enum": ["model", "popular"],
                "description": "popular: the history has no known item",
            },
            "model_rank": {"type": "integer", "description": "among these, by the model alone"},
            "prior_rank": {
                "type": ["integer", "null"],
                "description": "in the whole catalog, by item-to-item; null: nothing in common",
            },
            "nearest": {
                "type": "array",
                "description": "the history's items that it has most in common with",
                "items": {
                    "type": "object",
                    "properties": {**item["properties"], "share": {"type": "number"}},
                },
            },
        },
    }
    request = {
        "type": "object",
        "required": ["histories"],
        "additionalProperties": False,
        "properties": {
            "histories": {
                "type": "array",
                "minItems": 1,
                "maxItems": bodies.MAX_HISTORIES,
                "items": {**names, "maxItems": bodies.MAX_HISTORY},
                "description": "each a user's items, oldest first: short ids, raw ids or titles",
            },
            "k": {"type": "integer", "minimum": 1, "maximum": most_items, "default": 10},
            "exclude_history": {
                "type": ["boolean", "null"],
                "description": "leave out the history's own items; null: as in training",
            },
            "allow": {
                **names,
                "type": ["array", "null"],
                "maxItems": bodies.MAX_LISTED,
                "description": "only these items; null: all",
            },
            "deny": {**names, "maxItems": bodies.MAX_LISTED, "description": "none of these items"},
            "allow_lists": {
                **names,
                "maxItems": 16,
                "description": "only items on all of these lists of the service (--list)",
            },
            "deny_lists": {
                **names,
                "maxItems": 16,
                "description": "only items on none of these lists",
            },
            "explain": {
                "type": "boolean",
                "default": False,
                "description": "add model_rank, prior_rank and nearest to each item",
            },
        },
    }
    lists = {"type": "object", "properties": left_out}
    answer = {
        "type": "object",
        "required": ["results", "allow", "deny"],
        "properties": {
            "results": {
                "type": "array",
                "description": "of each history",
                "items": {
                    "type": "object",
                    "required": ["items", "history", *left_out],
                    "properties": {
                        "items": {"type": "array", "items": recommended},
                        "history": {"type": "array", "items": item},
                        **left_out,
                    },
                },
            },
            "allow": lists,
            "deny": lists,
        },
    }
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    }
    example = {"histories": [["I17", "I4"]], "k": 5, "deny": ["I3"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "recllm serve", "version": __version__},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/v1/recommend": {
                "post": {
                    "summary": "The most probable next items of each history, best first",
                    "security": [{"token": []}, {}],
                    "requestBody": {"required": True, "content": _content(request, example)},
                    "responses": {
                        "200": {"description": "items", "content": _content(answer)},
                        "401": _refusal("no token, or a wrong one", error),
                        "403": _refusal("without a token, only localhost may ask", error),
                        "408": _refusal("the body took too long", error),
                        "413": _refusal(f"more than {bodies.MAX_BODY_BYTES >> 20} MB", error),
                        "422": _refusal("what is wrong with the request", error),
                        "429": _refusal("the queue is full; see Retry-After", error),
                        "503": _refusal("starting, stopping or too slow", error),
                    },
                }
            },
            "/v1/items": {
                "get": {
                    "summary": "Items by id or by a part of their title, the most popular first",
                    "security": [{"token": []}, {}],
                    "parameters": [
                        _parameter("query", {"type": "string", "maxLength": bodies.MAX_NAME}),
                        _parameter("limit", {"type": "integer", "minimum": 1, "maximum": 50}),
                    ],
                    "responses": {
                        "200": {
                            "description": "items",
                            "content": _content(
                                {
                                    "type": "object",
                                    "required": ["items"],
                                    "properties": {"items": {"type": "array", "items": item}},
                                }
                            ),
                        },
                        "401": _refusal("no token, or a wrong one", error),
                        "403": _refusal("without a token, only localhost may ask", error),
                        "422": _refusal("what is wrong with the request", error),
                    },
                }
            },
            "/v1/lists": {
                "get": {
                    "summary": "The lists of the service (--list), and how many items each has now",
                    "security": [{"token": []}, {}],
                    "responses": {
                        "200": {
                            "description": "sizes by name",
                            "content": _content(
                                {
                                    "type": "object",
                                    "required": ["lists"],
                                    "properties": {
                                        "lists": {
                                            "type": "object",
                                            "additionalProperties": {"type": "integer"},
                                        }
                                    },
                                }
                            ),
                        },
                        "401": _refusal("no token, or a wrong one", error),
                        "403": _refusal("without a token, only localhost may ask", error),
                    },
                }
            },
            "/healthz": _probe("200 while the service runs", error),
            "/readyz": _probe("200 when every shape is compiled, 503 while it stops", error),
            "/metrics": {
                "get": {
                    "summary": "Counts and times, in Prometheus' text format",
                    "security": [{"token": []}, {}],
                    "responses": {"200": {"description": "text"}},
                }
            },
        },
    }


def docs_page(description: dict[str, Any]) -> str:
    """The description as a page without scripts."""
    parts = [_HEAD]
    for path, methods in description["paths"].items():
        for method, one in methods.items():
            parts.append(f"<h2><code>{method.upper()} {path}</code></h2><p>{_text(one['summary'])}")
            for parameter in one.get("parameters", ()):
                parts.append(f"<p><code>{parameter['name']}</code> {_limits(parameter['schema'])}")
            if "requestBody" in one:
                content = one["requestBody"]["content"]["application/json"]
                example = json.dumps(content["example"])
                parts.append(
                    f"<h3>Body</h3>{_fields(content['schema'])}<pre>{_text(example)}</pre>"
                )
            parts.append("<h3>Answers</h3><dl>")
            for status, answer in one["responses"].items():
                parts.append(f"<dt>{status}<dd>{_text(answer['description'])}")
                if status == "200" and "content" in answer:
                    parts.append(_fields(answer["content"]["application/json"]["schema"]))
            parts.append("</dl>")
    return "\n".join([*parts, "</main>"])


_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>recllm serve: API</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 48rem; margin: auto; padding: 1rem; overflow-wrap: break-word; }
pre { background: light-dark(#f2f2f4, #26262b); padding: .75rem; overflow: auto; }
h2 { margin-top: 2.5rem; } ul { padding-left: 1.25rem; } dt { font-weight: 600; }
</style>
<main><h1>recllm serve: API</h1>
<p>For programs: <a href="/openapi.json">openapi.json</a>. To try it: <a href="/">the page</a>."""


def _fields(schema: dict[str, Any]) -> str:
    if schema.get("type") == "array" or "items" in schema:
        return _fields(schema["items"])
    rows = []
    for name, field in schema.get("properties", {}).items():
        needed = " (required)" if name in schema.get("required", ()) else ""
        inner = _fields(field)
        text = _text(field.get("description", ""))
        rows.append(f"<li><code>{name}</code>{needed} {_limits(field)} {text}{inner}")
    return f"<ul>{''.join(rows)}</ul>" if rows else ""


def _limits(schema: dict[str, Any]) -> str:
    kind = schema.get("type", schema.get("enum", ""))
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "from"),
            ("maximum", "to"),
            ("maxItems", "at most"),
            ("default", "default"),
        )
        if key in schema
    ]
    return f"<small>{_text(', '.join([kind, *bounds]))}</small>"


def _text(text: str) -> str:
    return html.escape(str(text))


def _content(schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    found = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"application/json": found}


def _refusal(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": _content(schema)}


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _probe(summary: str, error: dict[str, Any]) -> dict[str, Any]:
    answers = {"200": {"description": "yes"}, "503": _refusal("no, and why", error)}
    return {"get": {"summary": summary, "responses": answers}}
