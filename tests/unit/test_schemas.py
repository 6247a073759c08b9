"""The published contract is what the code says, and old examples keep validating."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fraudstream.errors import Reason
from fraudstream.event import EventRules, Record, parse_label, parse_transaction
from fraudstream.schemas import all_schemas, asyncapi, render

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "schemas" / "v1"


@pytest.mark.parametrize("name", sorted(render()))
def test_committed_document_equals_the_code(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == render()[name], "run `make schemas`"


def test_no_stray_documents() -> None:
    committed = {path.name for path in FOLDER.glob("*.json")}
    assert committed == set(render())


@pytest.mark.parametrize("title", sorted(all_schemas()))
def test_schema_is_a_schema(title: str) -> None:
    jsonschema.Draft202012Validator.check_schema(all_schemas()[title])


def _examples(kind: str) -> list[Any]:
    files = sorted((FOLDER / "examples").glob(f"{kind}-*.json"))
    assert files, f"there should be examples of {kind}"
    return [json.loads(file.read_text("utf-8")) for file in files]


@pytest.mark.parametrize("title", sorted(all_schemas()))
def test_examples_validate(title: str) -> None:
    validator = jsonschema.Draft202012Validator(all_schemas()[title])
    for example in _examples(title):
        validator.validate(example)


def test_examples_of_events_are_accepted_by_the_parser() -> None:
    for kind, parse in (("transaction", parse_transaction), ("label", parse_label)):
        for example in _examples(kind):
            value = json.dumps(example).encode()
            parse(Record("topic", 0, 0, 2_000_000_000_000, None, value), EventRules())


@pytest.mark.parametrize("field", ["card_id", "amount_minor", "currency", "event_time"])
def test_schema_refuses_what_the_parser_refuses(field: str) -> None:
    example = _examples("transaction")[0] | {field: None}
    validator = jsonschema.Draft202012Validator(all_schemas()["transaction"])
    assert not validator.is_valid(example)


def test_asyncapi_refers_only_to_what_it_holds() -> None:
    document = asyncapi()
    for channel in document["channels"].values():
        for message in channel["messages"].values():
            assert message["$ref"].rsplit("/", 1)[-1] in document["components"]["messages"]
    for operation in document["operations"].values():
        assert operation["channel"]["$ref"].rsplit("/", 1)[-1] in document["channels"]


def test_every_reason_is_explained() -> None:
    text = (ROOT / "docs" / "contracts.md").read_text("utf-8")
    for reason in Reason:
        assert f"| `{reason.value}` |" in text
