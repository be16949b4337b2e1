"""A bundle and a data set -> how good it is: measures, figures, report and model card.

May import the trainer's shared modules, and of contourd ``imaging``, ``model``, ``contour`` and ``dicom``'s files;
nothing of ``trainer.curation`` and ``trainer.training``. Others use what is named here.
"""

from contourd.imaging.metrics import dice
from trainer.evaluation.card import write_card
from trainer.evaluation.evaluate import Results, run_evaluation
from trainer.evaluation.report import Evaluated
from trainer.evaluation.results import MetricSummary

__all__ = ["Evaluated", "MetricSummary", "Results", "dice", "run_evaluation", "write_card"]
