"""JSON schemas in words, short enough for the cell of a table."""

import json
import re
from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_SIZES = {"Length": "characters", "Items": "items", "Properties": "entries"}


def kind(schema: Json) -> str:
    """The type of a value, with its bounds; a model is a link to its heading."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{anchor(name)})"
    for options in ("anyOf", "oneOf"):
        if options in schema:
            return " or ".join(dict.fromkeys(kind(option) for option in schema[options]))
    return ", ".join([_noun(schema), *_limits(schema)])


def _noun(schema: Json) -> str:
    if "const" in schema:
        return _code(schema["const"])
    if "enum" in schema:
        return " or ".join(_code(value) for value in schema["enum"])
    match schema.get("type"):
        case "array":
            if "prefixItems" in schema:
                return f"list: {', '.join(kind(item) for item in schema['prefixItems'])}"
            each = kind(schema.get("items", {}))
            return f"list of ({each})" if ", " in each else f"list of {each}"
        case "object":
            inner = schema.get("additionalProperties")
            return f"object of {kind(inner)}" if isinstance(inner, Mapping) and inner else "object"
        case None:
            return "any"
        case name:
            return str(name)


def _limits(schema: Json) -> list[str]:
    said = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    if "prefixItems" not in schema:
        said += [_size(schema.get(f"min{of}", 0), schema.get(f"max{of}"), unit) for of, unit in _SIZES.items()]
    if "pattern" in schema:
        said.append(f"like `{schema['pattern']}`")
    return [each for each in said if each]


def _size(least: int, most: int | None, unit: str) -> str:
    if most is None:
        return f"at least {least} {unit}" if least > 1 else "not empty" * least
    if most == 0:
        return "empty"
    return f"{least} to {most} {unit}" if least else f"at most {most} {unit}"


def models_of(schema: object, models: Json) -> set[str]:
    """The models that a schema leads to, over however many steps."""
    found: set[str] = set()
    ahead = [schema]
    while ahead:
        match ahead.pop():
            case {"$ref": str(reference)}:
                name = reference.rpartition("/")[2]
                ahead += [models[name]] if name not in found else []
                found.add(name)
            case dict() as inner:
                ahead += inner.values()
            case list() as inner:
                ahead += inner
    return found


def default(schema: Json, *, required: bool) -> str:
    """What a value is where it is left out."""
    if required:
        return "required"
    return _code(schema["default"]) if "default" in schema else "–"


def anchor(heading: str) -> str:
    """The name of a heading on the page, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _code(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"
