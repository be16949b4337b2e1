"""What shows that a node works without a patient: the reference patient, the phantom with its sheet, the demo."""

__all__ = ["demo", "phantom", "reference_patient", "sheet"]
