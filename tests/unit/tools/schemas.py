"""The JSON Schemas of docs/json: every document that is printed must fit its own."""

from __future__ import annotations

import json
from pathlib import Path

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[3] / "docs/json"


def names() -> list[str]:
    """Of all schemas there are, without `.json`."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def check(name: str, document: object) -> None:
    """AssertionError with all that does not fit `docs/json/NAME.json`."""
    schema = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    errors = Draft202012Validator(schema).iter_errors(document)
    found = [f"{error.json_path}: {error.message[:300]}" for error in errors]
    assert found == [], "\n".join(found)
