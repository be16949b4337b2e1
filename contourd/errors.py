"""Every exception of contourd.

::

    ContourdError
    ├── SettingsError            the configuration cannot be used; every problem at once
    ├── SeriesUnusable           the input gate: a person must look, the series is held
    │   ├── OutsideLimits        the model was not made for such a series
    │   ├── SeriesFull           it has as many images as a series may have
    │   └── SeriesIncomplete     more slices may still come
    │       └── SlicesMissing    names the missing z
    ├── StructureSetRejected     the read-back check: what would be sent is not what was contoured
    │   └── OrgansRejected       only of some organs: they are withheld, each with its reason
    ├── ReviewUnusable           a structure set that came back cannot be paired or compared
    ├── ModelError               a bundle is missing, damaged or does not fit the code
    ├── DeviceError              the device that the settings name is too small, or does not compute as it must
    │   └── DeviceUnavailable    it cannot be used for the moment: the node's trouble, not the series'
    ├── NodeError                the node cannot serve: port taken, spool in use
    │   └── FilterInvalid        a list cannot be chosen so
    ├── SpoolError               the file store cannot take or give an instance
    │   ├── SpoolFull            below the watermark, or no space left
    │   ├── StoreUnavailable     the object store does not answer, or not as it must
    │   ├── ObjectMissing        it has no such object
    │   └── ObjectExists         it has one of that name, which stays
    ├── InstanceMismatch         a dataset is not what its command says
    ├── RequestMalformed         a DIMSE request breaks the rules, with the status that answers it
    ├── QueueUnavailable         the database cannot be read or written now
    ├── CommitmentRefused        a storage commitment message that cannot be taken, with its DIMSE status
    ├── InvalidTransition        a (state, event) pair that is not in the table
    ├── LeaseLost                another worker owns the job now
    ├── NoticeNotSent            an alert did not reach its channel
    ├── SchemaMismatch           the database belongs to another version of contourd
    ├── BackupError              a backup cannot be made or put back
    ├── ConstancyFailed          the reference patient did not come through the node as in the baseline
    ├── BaselineInvalid          the constancy check's baseline is missing, was changed or is not this site's
    ├── PatientNamed             a text that would be kept names the patient
    ├── RecordInvalid            a model was not measured here, or its record was changed
    ├── ImportRefused            a model of another program is not taken
    └── DatasetError             a training case or a structure set cannot be read

The message is for the person who must act: what was found, where, and the remedy. Each error carries the reason that
is kept where it holds a series or a job, or refuses an image: a code of the catalogue with its detail. What one class
alone cannot tell, such as a series that is unusable, is told by the code that it is raised with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from contourd.reasons.catalogue import HoldReason, Reason


class ContourdError(Exception):
    """Base of all errors that contourd raises on purpose."""

    CODE: ClassVar[HoldReason] = HoldReason.OTHER

    @property
    def reason(self) -> Reason:
        """Why something is held, refused or waits that meets this error."""
        return Reason.of(self.CODE, said=str(self))


class CodedError(ContourdError):
    """An error whose message is the sentence of its reason."""

    def __init__(self, code: HoldReason, /, **detail: object) -> None:
        self._reason = Reason.of(code, **detail)
        super().__init__(str(self._reason))

    @property
    def reason(self) -> Reason:
        """The code that it was raised with, and its detail."""
        return self._reason

    def __reduce__(self) -> tuple[object, ...]:
        """Release it to another process."""
        return _again, (type(self), self._reason)


def _again(kind: type[CodedError], reason: Reason) -> CodedError:
    return kind(reason.code, **reason.detail)


class SettingsError(ContourdError):
    """The configuration cannot be used."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s)\n" + "\n".join(f"  {p}" for p in self.problems))


class SeriesUnusable(CodedError):
    """The series fails the input gate: hold it and say why."""


class OutsideLimits(SeriesUnusable):
    """The model was not made for such a series; a person may release it."""


class SeriesFull(SeriesUnusable):
    """The series has as many images as one may have: no more are taken."""


class SeriesIncomplete(SeriesUnusable):
    """Too few slices so far; more may still come."""


class SlicesMissing(SeriesIncomplete):
    """The slices are not contiguous."""


class StructureSetRejected(CodedError):
    """The structure set does not read back as it was contoured."""


class OrgansRejected(StructureSetRejected):
    """Only these ROIs do not read back as they were contoured: ROI name -> why."""

    def __init__(self, code: HoldReason, /, *, organs: Mapping[str, str], **detail: object) -> None:
        self.organs = dict(organs)
        super().__init__(code, organs=self.organs, **detail)


class ReviewUnusable(CodedError):
    """A structure set that came back cannot be paired with a job, read or compared."""


class ModelError(CodedError):
    """A model bundle is missing, damaged or does not fit."""


class DeviceError(CodedError):
    """The device is absent, or its memory too small for the volume."""


class DeviceUnavailable(DeviceError):
    """The device cannot be used for the moment; the series is not at fault."""

    @property
    def lost(self) -> bool:
        """Whether this process will not have it again, and only another one will."""
        return self.reason.code is HoldReason.DEVICE_FAILED


class NodeError(ContourdError):
    """The node cannot serve here."""


class FilterInvalid(NodeError):
    """A list cannot be chosen so; the message names the filter and what it takes."""


class SpoolError(ContourdError):
    """The spool cannot take or give a file."""

    CODE = HoldReason.SPOOL_FAILED


class SpoolFull(SpoolError):
    """No space is left for another instance."""

    CODE = HoldReason.SPOOL_FULL


class StoreUnavailable(SpoolError):
    """The object store cannot be used now."""


class ObjectMissing(SpoolError):
    """There is no object of that name."""


class ObjectExists(SpoolError):
    """There is an object of that name, and it is not replaced."""


class InstanceMismatch(ContourdError):
    """The dataset is not the instance that the C-STORE request names."""

    CODE = HoldReason.INSTANCE_MISMATCH


class RequestMalformed(ContourdError):
    """A request breaks the rules of DIMSE."""

    CODE = HoldReason.REQUEST_MALFORMED

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


class QueueUnavailable(ContourdError):
    """The database cannot be read or written now."""

    CODE = HoldReason.DATABASE_AWAY


class CommitmentRefused(ContourdError):
    """The request or report of a storage commitment cannot be taken."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)

    def __reduce__(self) -> tuple[type[CommitmentRefused], tuple[int, str]]:
        """Release it to another process."""
        return type(self), (self.status, str(self))


class InvalidTransition(ContourdError):
    """The event cannot happen in this state."""


class LeaseLost(ContourdError):
    """The lease has run out, or another worker has taken the job."""


class NoticeNotSent(ContourdError):
    """The channel did not take the alert."""


class SchemaMismatch(ContourdError):
    """The database's revision is not this version's."""


class BackupError(ContourdError):
    """The database cannot be saved or put back."""


class ConstancyFailed(ContourdError):
    """The constancy check is red: the way through the node broke, or took too long."""


class BaselineInvalid(ContourdError):
    """The baseline of the constancy check is not there, or nobody vouches for it."""


class PatientNamed(ContourdError):
    """An operator's text names the patient, and would be kept."""


class RecordInvalid(ContourdError):
    """A model has no commissioning record that this site signed, or that of another model."""


class ImportRefused(ContourdError):
    """A model of another program is not taken: what is wrong with it, and what to do."""


class DatasetError(ContourdError):
    """A training case or a structure set cannot be read."""
