"""The running node: the daemon, its worker and receivers, who watches them, and what is done again and again."""

__all__ = ["daemon", "worker_host"]
