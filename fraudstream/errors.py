"""Every error raised on purpose, and what becomes of the record.

    FraudstreamError
    ├── InvalidEventError             quarantine: dead-letter this record, go on with the next
    ├── UnavailableError              replay: abort the batch, back off, read it again
    │   ├── BrokerUnavailableError
    │   │   ├── OffsetsHeldError      a transaction that has not ended holds the offsets back
    │   │   └── UnknownOutcomeError   committed or not? compare the group's offsets
    │   ├── OffsetsSteppedBackError   the group's offsets are older than they were: ask again
    │   ├── OutputRefusedError        dead-letter the one record whose output Kafka never takes
    │   └── StoreUnavailableError     (the worker may decide the batch without profiles instead)
    │       ├── ProfileLossError      the store forgot something: repair it from the log
    │       └── ProfilesRebuildingError   another worker's partition is not back yet
    └── StopError                     stop: the process ends, nothing of the batch is committed
        ├── UsageError                the words of the command are off
        ├── SettingsError             settings are wrong or do not belong together
        ├── FeatureSetError           the definition of features is wrong
        ├── BundleError               the model bundle is missing, damaged or of another kind
        ├── RetentionError            the log forgets sooner than the profiles need it
        ├── StoreUnfitError           Valkey is there but must not be used as it is
        ├── OffsetsMissingError       the group's offsets are gone although profiles exist
        ├── DeadLetterLimitError      nearly everything is bad: a deployment fault, not bad records
        ├── SlotTakenError            another live worker uses this worker's slot
        ├── WorkersGaveUpError        (demo) its workers ended by themselves; the code is theirs
        ├── LocalStackError           the embedded Kafka or Valkey could not be started
        ├── CountError                an independent count found events lost or doubled
        ├── ParityError               features of decisions are not what the log gives
        └── ServiceAwayError          a one-shot command cannot reach Kafka or Valkey

``pipeline`` catches the first branch, record by record; ``runtime`` the second, batch by batch;
``cli`` the third, once. A bug is none of these: it ends the process with the transaction aborted.

Messages never hold a value of a record: it may be a card number, and messages end up in logs.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """What the process's exit status says, for scripts and supervisors."""

    OK = 0
    #: A bug, or something nobody foresaw. The only code that comes with a traceback.
    INTERNAL = 1
    #: The words of the command are wrong (the number shells and typer use).
    USAGE = 2
    SETTINGS = 10
    BUNDLE = 11
    RETENTION = 12
    STORE_UNFIT = 13
    OFFSETS_MISSING = 14
    #: Not restarted by the parent: every child would stop the same way.
    DEAD_LETTER_LIMIT = 15
    SLOT_TAKEN = 16
    LOCAL_STACK = 17
    COUNT = 18
    #: Kafka or Valkey could not be reached by a command that cannot wait for it.
    UNAVAILABLE = 19
    PARITY = 20


class Reason(StrEnum):
    """Why a record was dead-lettered: a closed list, safe to count and to log.

    The table in ``docs/contracts.md`` explains each code to the people who publish events.
    """

    NULL_VALUE = "null_value"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    FRAMING = "framing"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    TOO_DEEP = "too_deep"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    BAD_FORMAT = "bad_format"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_CURRENCY = "unknown_currency"
    TIME_TOO_EARLY = "time_too_early"
    TIME_IN_FUTURE = "time_in_future"
    CARD_NUMBER = "card_number"
    OUTPUT_REFUSED = "output_refused"


class FraudstreamError(Exception):
    """Base of every error raised on purpose."""


class InvalidEventError(FraudstreamError):
    """A record that can never become an event; reading it again cannot help.

    Attributes
    ----------
    reason
        Why, as a fixed code.
    field
        The first field at fault, ``""`` when the record as a whole is.

    Examples
    --------
    >>> raise InvalidEventError(Reason.OUT_OF_RANGE, "amount_minor")
    Traceback (most recent call last):
    fraudstream.errors.InvalidEventError: amount_minor: out_of_range
    """

    def __init__(self, reason: Reason, field: str = "") -> None:
        super().__init__(f"{field or 'record'}: {reason.value}")
        self.reason = reason
        self.field = field


class UnavailableError(FraudstreamError):
    """Something outside is away for now; the same batch may succeed later."""


class BrokerUnavailableError(UnavailableError):
    """Kafka did not take the batch; it was aborted and must be read again."""


class OffsetsHeldError(BrokerUnavailableError):
    """Kafka holds the group's offsets back for a transaction that has not ended."""


class UnknownOutcomeError(BrokerUnavailableError):
    """A commit may or may not have happened: compare the group's offsets."""


class OffsetsSteppedBackError(UnavailableError):
    """Kafka tells offsets that lie before what the group had committed (``docs/adr/0024``).

    To begin there would decide payments twice.
    """


class OutputRefusedError(UnavailableError):
    """Kafka will never take one of a batch's outputs; the transaction was aborted.

    Which one is not said: what was sent together is refused together (`fraudstream.halving`).
    """

    def __init__(self) -> None:
        super().__init__("Kafka refuses an output")


class StoreUnavailableError(UnavailableError):
    """The profile store did not answer within its deadline."""


class ProfileLossError(StoreUnavailableError):
    """The profile store lacks records that were applied before; its answers are worthless.

    What other calls of the same batch wrote is harmless: it is recorded again, and counts once.
    """


class ProfilesRebuildingError(StoreUnavailableError):
    """Some partition's profiles are not whole yet, so answers that span cards would be wrong.

    The batch itself was recorded.
    """


class StopError(FraudstreamError):
    """The process must end; a person has to change something first."""

    exit_code: ExitCode = ExitCode.INTERNAL


class UsageError(StopError):
    """The words of a command do not make sense together."""

    exit_code = ExitCode.USAGE


class SettingsError(StopError):
    """Settings are wrong or do not belong together."""

    exit_code = ExitCode.SETTINGS


class FeatureSetError(StopError):
    """A definition of features is wrong, or is not the one that is needed."""

    exit_code = ExitCode.SETTINGS


class BundleError(StopError):
    """The model bundle is missing, damaged, or made for other code."""

    exit_code = ExitCode.BUNDLE


class RetentionError(StopError):
    """A topic is kept for a shorter time than the profiles' longest window."""

    exit_code = ExitCode.RETENTION


class StoreUnfitError(StopError):
    """Valkey answers but would give wrong features: too old, or it may evict keys."""

    exit_code = ExitCode.STORE_UNFIT


class OffsetsMissingError(StopError):
    """The group's offsets are gone although its profiles exist."""

    exit_code = ExitCode.OFFSETS_MISSING


class DeadLetterLimitError(StopError):
    """So many records are bad that the deployment must be at fault."""

    exit_code = ExitCode.DEAD_LETTER_LIMIT


class SlotTakenError(StopError):
    """Another live worker uses this worker's slot."""

    exit_code = ExitCode.SLOT_TAKEN


class LocalStackError(StopError):
    """The embedded Kafka or Valkey could not be started."""

    exit_code = ExitCode.LOCAL_STACK


class CountError(StopError):
    """An independent count of the topics found events lost or doubled."""

    exit_code = ExitCode.COUNT


class ParityError(StopError):
    """An audit found features of decisions that are not what the log gives."""

    exit_code = ExitCode.PARITY


class ServiceAwayError(StopError):
    """Kafka or Valkey cannot be reached by a command that cannot wait for it."""

    exit_code = ExitCode.UNAVAILABLE
