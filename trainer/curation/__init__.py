"""Archives -> a data set: what is found in them, whom and what it shows, how it is split, and a report of it.

May import the trainer's shared modules, and of contourd ``imaging``, ``model``, ``contour`` and the reading half of
``dicom``; nothing of ``trainer.training`` and ``trainer.evaluation``. Others use what is named here.
"""

from trainer.curation.audit import EXCLUDING
from trainer.curation.curate import NAMES, REPORT, Options, run_curation
from trainer.curation.splits import Shares

__all__ = ["EXCLUDING", "NAMES", "REPORT", "Options", "Shares", "run_curation"]
