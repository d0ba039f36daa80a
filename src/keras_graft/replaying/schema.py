"""The JSON Schema of steps, made from the signatures of the verbs: `steps.schema.json`.

python -m keras_graft.replaying.schema    # writes the file again
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_graft import _keras
from keras_graft.replaying.verbs import Verb, verbs

FILE = Path(__file__).parent / "steps.schema.json"


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a file of steps."""
    text = {"type": "string"}
    layer = {"layer": text, "config": {"type": "object"}, "seeds": _list({"type": "integer"}),
             "had_weights": {"type": "boolean"}}  # fmt: skip
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Steps of keras-graft",
        **_object(
            {"format": {"const": _keras.FORMAT}, "keras_graft": text, "steps": _list(_ref("step"))},
            ["format", "steps"],
        ),
        "$defs": {
            "step": {"oneOf": [_step(verb) for verb in verbs().values()]},
            "stage": {
                "oneOf": [
                    _object({"given": text}, ["given"]),
                    _object(
                        {"after": {"type": "integer", "minimum": 0}, "steps": _list(_ref("step"))},
                        ["after", "steps"],
                    ),
                ]
            },
            "value": {
                "anyOf": [
                    {"type": ["null", "boolean", "number", "string"]},
                    _list(_ref("value")),
                    _object({"class": text}, ["class"]),
                    _object({"function": text}, ["function"]),
                    _object(layer, ["layer"]),
                    _object({"each": _list(_ref("value"))}, ["each"]),
                    _object({"for_each": _ref("value")}, ["for_each"]),
                    _object({"operation_of": text}, ["operation_of"]),
                    _object({"same_as": {"type": "integer", "minimum": 0}}, ["same_as"]),
                    _object({"given": text}, ["given"]),
                    _object({"tuple": _list(_ref("value"))}, ["tuple"]),
                    _object({"pairs": _list(_list(_ref("value")))}, ["pairs"]),
                    _object({"array": {"type": "array"}}, ["array"]),
                    _object(
                        {
                            "as_input": {"type": ["string", "null"]},
                            "function": text,
                            "shape": _list({"type": ["integer", "null"]}),
                            "dtype": text,
                        },
                        ["as_input"],
                    ),
                    _object({"unwritten": text}, ["unwritten"]),
                    {"type": "object", "additionalProperties": _ref("value")},
                ]
            },
        },
    }


def _step(verb: Verb) -> dict[str, Any]:
    value = _list(_ref("stage")) if verb.name == "join" else _ref("value")
    needed = [name for name, needed in verb.arguments.items() if needed]
    arguments = _object(dict.fromkeys(verb.arguments, value), needed)
    if verb.more:
        arguments["additionalProperties"] = value
    properties = {"verb": {"const": verb.name}, "arguments": arguments}
    required = ["verb", "arguments"] if needed else ["verb"]
    if verb.name == "split":
        properties["part"] = {"type": "integer", "minimum": 0}
        required.append("part")
    return _object(properties, required)


def written() -> str:
    """Return the schema as the file holds it."""
    return json.dumps(schema(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
