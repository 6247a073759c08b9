"""Tries the Kafka client's properties before anything depends on them.

The client library names what it refuses together with its value, which may be a password. So its
words are read here and never shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, Producer

from fraudstream.adapters.kafka import (
    KafkaAccess,
    consumer_config,
    error_of,
    kafka_logger,
    producer_config,
)

#: What a client that is made only to be looked at is called.
_TRIAL_NAME = "fraudstream-trial"
#: Properties that the client library asks for when they are missing.
_SECURITY_PROPERTY = re.compile(r"(?:sasl|ssl)(?:\.[a-z]+)+")


def fault_of_properties(properties: Mapping[str, str]) -> str | None:
    """Say what is wrong with the properties, by name and never by value; None: nothing is."""
    fault = _client_fault(properties)
    return None if fault is None else _explain_client_fault(fault, properties)


def _client_fault(properties: Mapping[str, str]) -> str | None:
    """Make both kinds of client, without a broker to connect to; give what the library says.

    What it says may hold values, and so must not be shown.
    """
    access = KafkaAccess("", properties)
    nowhere = {"bootstrap.servers": "", "logger": kafka_logger(), **_without_token(properties)}
    # As the workers' own producer, whose time-outs must fit together.
    transactional = {"transactional.id": _TRIAL_NAME, "transaction.timeout.ms": 10_000}
    try:
        Consumer(consumer_config(access, _TRIAL_NAME) | nowhere)
        Producer(producer_config(access) | transactional | nowhere)
    except KafkaException as exception:
        return error_of(exception).str()
    except (AttributeError, TypeError, ValueError) as exception:  # text for a call-back
        return str(exception)
    return None


def _without_token(properties: Mapping[str, str]) -> dict[str, str]:
    """Leave out the login of a client that asks for a token at once: it waits long for an answer.

    What the properties must be is looked at all the same.
    """
    protocol = properties.get("security.protocol", "").lower()
    is_oidc = properties.get("sasl.oauthbearer.method", "").lower() == "oidc"
    if not is_oidc or protocol not in {"sasl_ssl", "sasl_plaintext"}:
        return {}
    return {"security.protocol": protocol.removeprefix("sasl_")}


def _explain_client_fault(fault: str, properties: Mapping[str, str]) -> str:
    """Say which property is at fault, without the library's words: they may hold a value."""
    words = set(re.findall(r"\w+(?:[.-]\w+)*", fault))
    names = [name for name in properties if name in words]
    if fault.startswith("No such configuration property"):
        unknown = ", ".join(name for name in properties if f'"{name}"' in fault)
        return (
            f"the Kafka client knows no property {unknown}; those that there are, are listed in "
            "librdkafka's CONFIGURATION.md"
        )
    if fault.endswith(" must be set") or "is mandatory" in fault:
        asked_for = dict.fromkeys(_SECURITY_PROPERTY.findall(fault))
        given = [*properties.values()]  # a value that the library repeats asks for nothing
        missing = [n for n in asked_for if n not in properties and not any(n in v for v in given)]
        if missing:
            return f"the Kafka client also needs {', '.join(missing)}"
    if not names:
        # Named by another name, or not at all: without the one at fault it says something else.
        names = [name for name in properties if _client_fault(_without(name, properties)) != fault]
    shown = ", ".join(names or properties)
    if "SASL mechanism" in fault:
        return (
            f"the Kafka client has no such SASL mechanism ({shown}): set sasl.mechanism to PLAIN, "
            "SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
        )
    if any(name.endswith(".location") for name in names):
        return f"the Kafka client cannot use the file in {shown}: is it there, readable, and whole?"
    return (
        f"the Kafka client refuses the value of {shown}; what it takes is listed in librdkafka's "
        "CONFIGURATION.md"
    )


def _without(left_out: str, properties: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in properties.items() if name != left_out}
