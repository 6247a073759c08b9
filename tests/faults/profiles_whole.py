"""Whether the profiles hold all that was decided: asked after a run, past every proxy."""

from __future__ import annotations

from collections.abc import Mapping

from harness import BUNDLE, Deployment, Partition
from history import CURRENCY

from fraudstream.adapters.profiles import BucketedProfileStore
from fraudstream.adapters.valkey import ValkeyBackend, ValkeyLimits
from fraudstream.bundle import load_bundle
from fraudstream.pipeline import InputTopics

_LIMITS = ValkeyLimits(deadline_s=20.0, connect_timeout_s=5.0)


def are_profiles_whole(
    deployment: Deployment, valkey_url: str, ends: Mapping[Partition, int]
) -> bool:
    """Say whether every bucket's watermark has come to the ends of the input partitions.

    Parameters
    ----------
    deployment
        Whose profiles.
    valkey_url
        Valkey's own address.
    ends
        By input partition, the offset that must be reached.
    """
    definition = load_bundle(BUNDLE).feature_set.profile_definition(CURRENCY)
    backend = ValkeyBackend(valkey_url, definition, namespace=deployment.name, limits=_LIMITS)
    topics = InputTopics(deployment.topics["transactions"], deployment.topics["labels"])
    marks = BucketedProfileStore(definition, backend).watermarks()
    return all(marks.get(topics.partition(*place), 0) >= end for place, end in ends.items())
