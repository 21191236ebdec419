#!/usr/bin/env python3
"""Holds random texts of JSON schemas to the Python package jsonschema, formats included.

    tools/check_json_schemas.py [-n 300] [--texts build/tests/random_texts] [SCHEMA.json ...]

Without files it takes the schemas below. For developers only; needs jsonschema[format].
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parent.parent
PERSON = {
    "$defs": {
        "Address": {
            "title": "Address", "type": "object", "required": ["street", "zip"],
            "properties": {"street": {"title": "Street", "type": "string"},
                           "zip": {"type": "string", "pattern": "^[0-9]{5}(-[0-9]{4})?$"}},
        },
        "Color": {"enum": ["red", "green", "bl\u00fc"], "title": "Color", "type": "string"},
    },
    "title": "Person", "type": "object", "required": ["name", "address", "color", "friends"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "nick": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "address": {"$ref": "#/$defs/Address"},
        "color": {"allOf": [{"$ref": "#/$defs/Color"}], "description": "of hair"},
        "friends": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1},
    },
}
SCHEMAS = {
    "person": PERSON,
    "anything": {},
    "numbers": {
        "type": "object", "additionalProperties": False,
        "required": ["a", "b", "c", "d", "e", "f", "g"],
        "properties": {
            "a": {"type": "integer", "minimum": -250, "maximum": 1024},
            "b": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "c": {"type": "number", "minimum": -1e6, "maximum": -0.125},
            "d": {"type": "integer", "exclusiveMinimum": 9, "maximum": 1e20},
            "e": {"type": "number", "maximum": 3.14159}, "f": {"type": "number"},
            "g": {"type": "integer", "minimum": 99999, "maximum": 100001},
        },
    },
    "formats": {
        "type": "array", "minItems": 9, "maxItems": 9,
        "prefixItems": [{"type": "string", "format": name} for name in (
            "date", "time", "date-time", "duration", "uuid", "ipv4", "ipv6", "hostname", "email")],
    },
    "patterns": {
        "type": "array", "items": False,
        "prefixItems": [{"type": "string", "pattern": pattern} for pattern in (
            r"^(\([0-9]{3}\))?[0-9]{3}-[0-9]{4}$", r"^[^\x00-\x1f\"a-z]{2,5}$", r"^$|^(a|bc)*d?$",
            r"^\S{1,3}\.(?:png|jpe?g)$", r"^[\w.+-]{1,9}\/\d+$", "^.{3}$", "^ab", "^x|y$", r"^[^\d\s]\u00e9?$")],
    },
    "union": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": kind}, kind: {"type": type}},
             "required": ["kind", kind], "additionalProperties": False}
            for kind, type in (("text", "string"), ("count", "integer"), ("flag", "boolean"))
        ] + [{"type": "null"}],
    },
    "map": {
        "type": "object", "properties": {"id": {"type": "integer"}, "ideas": {"const": [1, {"x": None}]}},
        "additionalProperties": {"type": "array", "items": {"type": ["boolean", "null"]}, "maxItems": 2},
    },
    "merged": {
        "type": "object", "required": ["x"],
        "properties": {"x": {"type": "integer", "minimum": 3}, "s": {"type": "string"}},
        "allOf": [{"properties": {"x": {"maximum": 40}, "s": {"maxLength": 4}}},
                  {"required": ["s"], "additionalProperties": {"type": ["integer", "string"]}}],
        "anyOf": [{"properties": {"y": {"type": "string", "enum": ["p", "q"]}}, "required": ["y"]},
                  {"properties": {"x": {"minimum": 30}}}],
    },
    "expression": {
        "$ref": "#/$defs/e",
        "$defs": {"e": {"anyOf": [
            {"type": "number"},
            {"type": "object", "required": ["op", "left", "right"], "additionalProperties": False,
             "properties": {"op": {"enum": ["+", "*"]}, "left": {"$ref": "#/$defs/e"},
                            "right": {"$ref": "#/$defs/e"}}},
            {"type": "object", "required": ["op", "of"], "additionalProperties": False,
             "properties": {"op": {"const": "-"}, "of": {"$ref": "#/$defs/e"}}}]}},
    },
}


def check(name, schema, args):
    """Returns the number of texts that are not valid."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(schema, file)
        file.flush()
        out = subprocess.run([args.texts, args.model, file.name, str(args.n)], check=True,
                             stdout=subprocess.PIPE).stdout
    texts = out.split(b"\0")[:-1]
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    bad = 0
    for text in texts:
        try:
            validator.validate(json.loads(text))
        except (ValueError, jsonschema.ValidationError) as problem:
            bad += 1
            if bad <= 3:
                print(f"{name}: {text.decode(errors='replace')}\n  {str(problem).splitlines()[0]}")
    print(f"{name}: {len(texts)} texts, {len(set(texts))} different, {bad} not valid")
    return bad + (len(texts) < args.n)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schemas", nargs="*", type=pathlib.Path)
    parser.add_argument("-n", type=int, default=300, help="texts of each schema")
    parser.add_argument("--texts", default=ROOT / "build/tests/random_texts")
    parser.add_argument("--model", default=next((ROOT / "models").glob("*.gguf")))
    args = parser.parse_args()
    schemas = {path.name: json.loads(path.read_text()) for path in args.schemas} or SCHEMAS
    return 1 if sum(check(name, schema, args) for name, schema in schemas.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
