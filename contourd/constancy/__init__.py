"""Whether the node still draws what it drew: the morning check against a signed baseline, and the replay of a job."""

__all__ = ["replay", "requests", "runner"]
