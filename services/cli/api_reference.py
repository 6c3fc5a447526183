"""The reference page of the API, made from the schema that the application serves and the errors that it raises."""

import ast
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import typer

import services
from cluster.settings import Settings
from services.cli.schema_words import anchor, default, kind, models_of
from services.edge.errors import ApiError

Json = Mapping[str, Any]
Route = tuple[str, str, Json]
_ERROR_MODELS = ("ErrorBody", "Problem")
_INTRODUCTION = """\
# API

Made from the code: `pointsman api` prints this page, a running service has the same as `/openapi.json` and, to try
out, as `/docs`.

Where keys are configured, a request carries `Authorization: Bearer <key>`, and the key needs the scope that stands
beside the route (`admin` includes `inspect`). Bodies are JSON. Where a model below is closed, a field that it does not
have is an error that names it.
"""
_ERRORS = """\
## Errors

Every error has OpenAI's shape. `message` names the field, the value found and what was expected; `param` is the
field's path, or null; a `Retry-After` header says when another try makes sense.

One 503 comes from Serve's proxy and is plain text: more requests wait than `server.max_queued`. It has `Retry-After`.
"""


def api() -> None:
    """The reference page of the API."""
    typer.echo(api_markdown(api_schema()), nl=False)


def api_schema() -> Json:
    """The OpenAPI schema of the application. Nothing is started and nobody is connected to."""
    from services.assembly import make_router  # torch and Ray: the other commands do not wait for them
    from services.gateway import build_gateway
    from services.model.base import Model

    settings = Settings.model_validate({"store": {"url": "redis://nowhere.invalid"}})
    no_model = cast(Model, None)  # routes are described, not called
    return build_gateway(make_router(settings, no_model), settings).openapi()


def api_markdown(schema: Json) -> str:
    """The reference page: routes by tag, errors, and every model once."""
    routes = list(_routes(schema))
    models: dict[str, Json] = schema["components"]["schemas"]
    asked = models_of([operation.get("requestBody") for _, _, operation in routes], models)
    answered = set(models) - asked - set(_ERROR_MODELS)
    lines = [
        _INTRODUCTION,
        *_overview(routes),
        *_by_tag(routes),
        _ERRORS,
        *(line for name in _ERROR_MODELS for line in _answered(name, models[name])),
        *_codes(),
        "## What bodies are made of\n",
        *(line for name in sorted(asked) for line in _asked(name, models[name])),
        "## What answers are made of\n",
        *(line for name in sorted(answered) for line in _answered(name, models[name])),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _routes(schema: Json) -> Iterator[Route]:
    """Method, path and operation of each, by tag in the order in which tags first come."""
    routes = [(method.upper(), path, op) for path, ops in schema["paths"].items() for method, op in ops.items()]
    for tag in dict.fromkeys(op["tags"][0] for _, _, op in routes):
        yield from (route for route in routes if route[2]["tags"][0] == tag)


def _overview(routes: Sequence[Route]) -> Iterator[str]:
    yield from ("| route | scope | what |", "|---|---|---|")
    for method, path, operation in routes:
        title = f"{method} {path}"
        first = operation["description"].partition("\n")[0].partition(". ")[0].rstrip(".")
        yield f"| [`{title}`](#{anchor(title)}) | {_scope(operation)} | {first} |"
    yield ""


def _by_tag(routes: Sequence[Route]) -> Iterator[str]:
    for tag, members in itertools.groupby(routes, lambda route: route[2]["tags"][0]):
        yield f"## {tag.capitalize()}\n"
        for route in members:
            yield from _route(*route)


def _route(method: str, path: str, operation: Json) -> Iterator[str]:
    yield from (f"### `{method} {path}`", "", operation["description"], "", f"- scope: {_scope(operation)}")
    if body := operation.get("requestBody"):
        optional = "" if body.get("required") else " or none"
        yield f"- body: {kind(body['content']['application/json']['schema'])}{optional}"
    for status, answer in operation["responses"].items():
        if status.isdigit():
            yield f"- {status}: {_answer(answer)}"
    if parameters := operation.get("parameters"):
        yield from ("", "| parameter | in | type | default | |", "|---|---|---|---|---|")
        for each in parameters:
            stands = default(each["schema"], required=each["required"])
            about = each.get("description", "")
            yield f"| `{each['name']}` | {each['in']} | {kind(each['schema'])} | {stands} | {about} |"
    yield ""


def _scope(operation: Json) -> str:
    scopes = [scope for asked in operation.get("security", []) for scope in itertools.chain(*asked.values())]
    return ", ".join(f"`{scope}`" for scope in scopes) or "no key"


def _answer(answer: Json) -> str:
    media = answer.get("content", {}).items()
    said = [kind(content["schema"]) if "json" in name else f"`{name}`" for name, content in media]
    return " or ".join(said) or "as said above"


def _asked(name: str, model: Json) -> Iterator[str]:
    """A model that clients send."""
    closed = " Closed." if model.get("additionalProperties") is False else ""
    required = model.get("required", [])
    yield from (*_heading(name, model, closed), "| field | type | default | |", "|---|---|---|---|")
    for field, schema in model["properties"].items():
        stands = default(schema, required=field in required)
        yield f"| `{field}` | {kind(schema)} | {stands} | {_about(schema)} |"
    yield ""


def _answered(name: str, model: Json) -> Iterator[str]:
    """A model that the service sends: every field is there. Some are lists, with a meaning for each place."""
    yield from _heading(name, model)
    if places := model.get("prefixItems"):
        yield from ("A list, in this order:", "", "| place | type |", "|---|---|")
        yield from (f"| {place.get('title', '')} | {kind(place)} |" for place in places)
    else:
        yield from ("| field | type | |", "|---|---|---|")
        yield from (
            f"| `{field}` | {kind(schema)} | {_about(schema)} |" for field, schema in model["properties"].items()
        )
    yield ""


def _heading(name: str, model: Json, closed: str = "") -> tuple[str, ...]:
    about = (str(model.get("description", "")) + closed).strip()
    return (f"### {name}", "", *((about, "") if about else ()))


def _about(schema: Json) -> str:
    return str(schema.get("description", ""))


def _codes() -> list[str]:
    """Every code that an ApiError of ours is raised with, by status."""
    found: dict[tuple[int, str], set[str]] = {}
    for file in sorted(Path(services.__path__[0]).rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == ApiError.__name__:
                given = {keyword.arg: keyword.value for keyword in call.keywords}
                status, code, field = call.args[:1], given.get("code"), given.get("param")
                if status and isinstance(status[0], ast.Constant) and isinstance(code, ast.Constant):
                    where = found.setdefault((cast(int, status[0].value), cast(str, code.value)), set())
                    where.add(_param(field))
    return [
        "| status | `code` | `type` | `param` |",
        "|---|---|---|---|",
        *(
            f"| {status} | `{code}` | `{ApiError(status, '').kind}` | {', '.join(sorted(fields))} |"
            for (status, code), fields in sorted(found.items())
        ),
        "",
    ]


def _param(field: ast.expr | None) -> str:
    if isinstance(field, ast.Constant):
        return f"`{cast(str, field.value)}`"
    return "the field" if field else "null"
