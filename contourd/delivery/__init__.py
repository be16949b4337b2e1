"""Structure sets -> destinations, with retries; and storage commitment, asked for and answered."""

__all__ = ["commitment_reporter", "commitment_requests", "commitments", "deliverer", "deliveries", "senders"]
