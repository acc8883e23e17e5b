"""What a JSON schema says about one value, in words."""

import json
from collections.abc import Mapping
from typing import Any

from docs.generate.markdown import code

Schema = Mapping[str, Any]

_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most", "exclusiveMaximum": "under"}


def kind(schema: Schema) -> str:
    """Return the type of a value with its bounds; a reference to another schema is a link to its heading.

    Examples
    --------
    >>> kind({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    'integer (at least 1) or null'
    >>> kind({"type": "array", "items": {"enum": ["a", "b"], "type": "string"}})
    'list of (`"a"` or `"b"`)'
    >>> kind({"$ref": "#/components/schemas/RunItem"})
    '[RunItem](#runitem)'
    """
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(json.dumps(value)) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(kind(choice) for choice in schema[union])
    if "prefixItems" in schema:
        return "list of " + ", ".join(kind(item) for item in schema["prefixItems"])
    if schema.get("type") == "array":
        items = kind(schema.get("items", {}))
        return f"list of ({items})" if " or " in items else f"list of {items}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"object of {kind(values)}" if isinstance(values, Mapping) and values else "object"
    return str(schema.get("type", "any JSON value")) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    found = [f"{words} {_number(schema[name])}" for name, words in _BOUNDS.items() if name in schema]
    if "maxLength" in schema and "pattern" not in schema:
        found.append(f"at most {schema['maxLength']} characters")
    if "pattern" in schema:
        found.append(f"matching {code(schema['pattern'])}")
    return f" ({', '.join(found)})" if found else ""


def _number(value: float) -> str:
    """Return a bound without a needless fraction or exponent."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
