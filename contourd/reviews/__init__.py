"""What planning systems make of the contours and send back: received, paired with its job, compared, kept."""

__all__ = ["reception", "records", "retention", "runner"]
