"""What a person does to a job or a series: each a transaction with a line in the audit trail."""

__all__ = ["exporting", "operations"]
