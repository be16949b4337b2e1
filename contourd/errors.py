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
    ├── ModelError               a bundle is missing, damaged or does not fit the code
    ├── DeviceError              the device that the settings name is too small, or does not compute as it must
    │   └── DeviceUnavailable    it cannot be used for the moment: the node's trouble, not the series'
    ├── NodeError                the node cannot serve: port taken, spool in use
    ├── SpoolError               the file store cannot take or give an instance
    │   └── SpoolFull            below the watermark, or no space left
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
    └── DatasetError             a training case or a structure set cannot be read

The message is for the person who must act: what was found, where, and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class ContourdError(Exception):
    """Base of all errors that contourd raises on purpose."""


class SettingsError(ContourdError):
    """The configuration cannot be used."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source, self.problems = source, tuple(problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s)\n" + "\n".join(f"  {p}" for p in self.problems))


class SeriesUnusable(ContourdError):
    """The series fails the input gate: hold it and say why."""


class OutsideLimits(SeriesUnusable):
    """The model was not made for such a series; a person may release it."""

    def __init__(self, model: str, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(
            f"the series is outside the limits of {model}: {'; '.join(reasons)}; "
            "a person who answers for it releases it with `--override REASON`"
        )


class SeriesFull(SeriesUnusable):
    """The series has as many images as one may have: no more are taken."""


class SeriesIncomplete(SeriesUnusable):
    """Too few slices so far; more may still come."""


class SlicesMissing(SeriesIncomplete):
    """The slices are not contiguous."""

    def __init__(self, missing_z_mm: Sequence[float]) -> None:
        self.missing_z_mm = tuple(missing_z_mm)
        shown = ", ".join(f"{z:.2f}" for z in self.missing_z_mm[:20])
        more = f" and {len(self.missing_z_mm) - 20} more" if len(self.missing_z_mm) > 20 else ""
        super().__init__(f"missing slices at z = {shown}{more} mm; send the whole series again")


class StructureSetRejected(ContourdError):
    """The structure set does not read back as it was contoured."""


class OrgansRejected(StructureSetRejected):
    """Only these ROIs do not read back as they were contoured: ROI name -> why."""

    def __init__(self, reasons: Mapping[str, str], told: str = "") -> None:
        self.reasons = dict(reasons)
        super().__init__(told or "; ".join(f"{name} {why}" for name, why in self.reasons.items()))

    def __reduce__(self) -> tuple[type[OrgansRejected], tuple[dict[str, str], str]]:
        """Let another process have it."""
        return type(self), (self.reasons, str(self))


class ModelError(ContourdError):
    """A model bundle is missing, damaged or does not fit."""


class DeviceError(ContourdError):
    """The device is absent, or its memory too small for the volume."""


class DeviceUnavailable(DeviceError):
    """The device cannot be used for the moment; the series is not at fault.

    ``lost``: this process will not have it again, only another one will.
    """

    def __init__(self, reason: str, *, lost: bool = False) -> None:
        self.lost = lost
        super().__init__(reason)


class NodeError(ContourdError):
    """The node cannot serve here."""


class SpoolError(ContourdError):
    """The spool cannot take or give a file."""


class SpoolFull(SpoolError):
    """No space is left for another instance."""


class InstanceMismatch(ContourdError):
    """The dataset is not the instance that the C-STORE request names."""


class RequestMalformed(ContourdError):
    """A request breaks the rules of DIMSE."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


class QueueUnavailable(ContourdError):
    """The database cannot be read or written now."""


class CommitmentRefused(ContourdError):
    """The request or report of a storage commitment cannot be taken."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)

    def __reduce__(self) -> tuple[type[CommitmentRefused], tuple[int, str]]:
        """Let another process have it."""
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


class DatasetError(ContourdError):
    """A training case or a structure set cannot be read."""
