"""Checks each line of standard input, a JSON document, against the JSON schema in the file argv[1]."""

import json
import sys

import fastjsonschema

with open(sys.argv[1], encoding="utf-8") as file:
    validate = fastjsonschema.compile(json.load(file), formats={name: ".*" for name in ("uint", "uint32", "uint64", "double")})
for number, line in enumerate(sys.stdin, 1):
    try:
        validate(json.loads(line))
    except fastjsonschema.JsonSchemaException as error:
        sys.exit(f"document {number}: {error.message}")
