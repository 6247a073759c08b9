"""A variant's model card: what it changed, and then the card of the model that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fraudstream.manifest import Certificate, Variant
from fraudstream.training.card import write_card

_WAYS: Final = {
    "pruned": "Fewer trees, and branches that change little cut off.",
    "distilled": "A smaller model that learnt the other's scores instead of the truth.",
    "quantised": "Coarser thresholds and leaves, which pack better; nothing is faster.",
    "onnx": "The same trees, scored by ONNX Runtime; single rows are faster.",
    "distilled-onnx": "A smaller model that learnt the other's scores, scored by ONNX Runtime.",
}
_CARD: Final = """\
# Model card: {name}, version {version}

A {kind} variant of another model. {way}

It stands in for the bundle with the hash `{of}`
and has that model's features, fallback model, reasons and calibration.

## What that changed

Measured on {transactions:,} payments ({frauds:,} frauds) from {start} to before {end}{flattering}.
`certificate.json` has all of it.

| | this variant | the model |
| --- | --- | --- |
| average precision | {c.average_precision:.4f} | {c.average_precision_before:.4f} |
| card precision@100 | {c.card_precision_100:.4f} | {c.card_precision_100_before:.4f} |
| bytes of the model's files | {c.model_bytes:,} | {c.model_bytes_before:,} |
{latencies}

Scores differ by at most {c.score_difference_max:.2g} on these payments, and by at most
{c.score_difference_max_on_splits:.2g} on {c.rows_on_splits:,} vectors made to lie on splits.

Under the thresholds {thresholds}, {c.flips:,} payments get another outcome.

Latencies are medians, on {c.machine}.

## How it was made

{parameters}

The rest of this card is about the model that it stands in for.

"""


def variant_card(about: Mapping[str, Any], certificate: Certificate) -> str:
    """Write a variant's card.

    Parameters
    ----------
    about
        The manifest's fields, as in `fraudstream.bundle_writing.BundleDraft`.
    certificate
        What was measured.
    """
    variant = Variant.model_validate(about["variant"])
    evaluated_on = certificate.evaluated_on
    top = _CARD.format(
        name=about["name"],
        version=about["version"],
        kind=variant.kind,
        way=_WAYS[variant.kind],
        of=variant.of,
        c=certificate,
        transactions=evaluated_on.transactions,
        frauds=evaluated_on.frauds,
        start=evaluated_on.start[:10],
        end=evaluated_on.end[:10],
        flattering=", days that the model learnt from, which flatters both"
        if certificate.is_of_training
        else "",
        latencies="\n".join(
            f"| microseconds for {name.removeprefix('rows_')} rows | {us:,.1f} | {us_before:,.1f} |"
            for (name, us), (_, us_before) in zip(
                certificate.latency_us, certificate.latency_us_before, strict=True
            )
        ),
        thresholds=" and ".join(f"{threshold:g}" for threshold in certificate.thresholds),
        parameters="\n".join(
            f"* `{name}`: {value}" for name, value in sorted(variant.parameters.items())
        ),
    )
    model = about["name"].removesuffix(f"-{variant.kind}")
    below = write_card({**about, "name": model})
    return top + below.replace("\n#", "\n##").replace("# ", "## ", 1)
