"""Variants beside their teacher, and which serves what: by what was measured and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fraudstream.manifest import Certificate, Latencies

#: Medians of one run that are nearer to each other are alike.
_ALIKE: Final = 1.05


@dataclass(frozen=True, slots=True)
class Figures:
    """A model, or one of its variants.

    Attributes
    ----------
    name
        The bundle's.
    bundle_bytes, model_bytes
        The sizes of all its files, and of those that make the scores.
    average_precision, card_precision_100
        On the judged payments.
    latency_us
        How long calls take.
    certificate
        None for the model itself.
    """

    name: str
    bundle_bytes: int
    model_bytes: int
    average_precision: float
    card_precision_100: float
    latency_us: Latencies
    certificate: Certificate | None = None

    @property
    def loss(self) -> float:
        """How much average precision it lost; below 0 if it won."""
        certificate = self.certificate
        if certificate is None:
            return 0.0
        return certificate.average_precision_before - certificate.average_precision

    @property
    def row_us(self) -> float:
        """Microseconds a row, the mean of a batch of 128 and one of 1,024."""
        return (self.latency_us.rows_128 / 128 + self.latency_us.rows_1024 / 1024) / 2


@dataclass(frozen=True, slots=True)
class Purpose:
    """Who serves a purpose, and why."""

    purpose: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model, its variants, and which serves what.

    Attributes
    ----------
    figures
        The model itself first.
    loss_max
        How much average precision a variant may lose.
    """

    figures: tuple[Figures, ...]
    loss_max: float

    @property
    def too_lossy(self) -> list[Figures]:
        """The variants that lost more than is allowed; they serve nothing."""
        return [each for each in self.figures if each.loss > self.loss_max]

    def purposes(self) -> list[Purpose]:
        """Choose by the figures. The model itself may be the best, too.

        Examples
        --------
        >>> slow = Latencies(rows_1=200.0, rows_16=300.0, rows_128=900.0, rows_1024=7000.0)
        >>> fast = Latencies(rows_1=220.0, rows_16=230.0, rows_128=300.0, rows_1024=2000.0)
        >>> big = Figures("big", 900, 800, 0.7, 0.3, slow)
        >>> slim = Figures("slim", 100, 50, 0.7, 0.3, fast)
        >>> [chosen.name for chosen in Comparison((big, slim), 0.005).purposes()]
        ['big', 'big', 'slim']
        """
        model = self.figures[0]
        good = [each for each in self.figures if each.loss <= self.loss_max]
        quick_us = _ALIKE * model.latency_us.rows_1
        quick = [each for each in good if each.latency_us.rows_1 <= quick_us]
        edge = min(quick, key=lambda each: each.bundle_bytes)
        http = _first_of_the_fastest(good, lambda each: each.latency_us.rows_1)
        stream = _first_of_the_fastest(good, lambda each: each.row_us)
        return [
            Purpose(
                "edge",
                edge.name,
                f"{edge.bundle_bytes / 1e3:,.0f} kB, the smallest of those that score one row no "
                f"slower than the model itself ({edge.latency_us.rows_1:,.0f} µs)",
            ),
            Purpose(
                "HTTP",
                http.name,
                f"{http.latency_us.rows_1:,.0f} µs for one row; none is 5 % faster",
            ),
            Purpose(
                "stream",
                stream.name,
                f"{stream.row_us:,.1f} µs a row in batches of 128 to 1,024; none is 5 % faster",
            ),
        ]


def _first_of_the_fastest(
    figures: Sequence[Figures], taken_us: Callable[[Figures], float]
) -> Figures:
    """Choose the first that is about as fast as the fastest: the model itself before others."""
    enough_us = _ALIKE * min(map(taken_us, figures))
    return next(each for each in figures if taken_us(each) <= enough_us)


def compare(
    teacher: tuple[str, int], variants: Sequence[tuple[str, int, Certificate]], loss_max: float
) -> Comparison:
    """Put variants beside their teacher.

    Parameters
    ----------
    teacher
        Its name, and how many bytes its bundle has.
    variants
        The same of each variant, and its certificate; at least one, all of one run.
    loss_max
        How much average precision a variant may lose.
    """
    _, _, first = variants[0]
    model = Figures(
        *teacher,
        first.model_bytes_before,
        first.average_precision_before,
        first.card_precision_100_before,
        first.latency_us_before,
    )
    return Comparison(
        (
            model,
            *(
                Figures(
                    name,
                    size,
                    certificate.model_bytes,
                    certificate.average_precision,
                    certificate.card_precision_100,
                    certificate.latency_us,
                    certificate,
                )
                for name, size, certificate in variants
            ),
        ),
        loss_max,
    )
