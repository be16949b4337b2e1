"""The models that a worker has loaded, as its row in ``processes`` keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import update

from contourd.model.model_identity import ModelIdentity
from contourd.store.database import Database
from contourd.store.tables import ProcessRow


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One model that is ready.

    Attributes
    ----------
    kind
        Of its bundle.
    runtime
        What runs its network.
    bytes
        An estimate of what it takes while it waits: its weights.
    """

    model: ModelIdentity
    kind: str
    runtime: str
    bytes: int
    since: datetime

    def text(self) -> str:
        """Name it, with what runs it and what it takes."""
        return f"{self.model.name} {self.model.version} ({self.runtime}, {self.bytes / 1e6:.0f} MB)"


def write_loaded(database: Database, worker: str, models: Iterable[LoadedModel]) -> None:
    """Write down what a worker has loaded now; raises QueueUnavailable."""
    written = json.dumps(
        [
            {
                "model": [one.model.name, one.model.version, one.model.sha256],
                "kind": one.kind,
                "runtime": one.runtime,
                "bytes": one.bytes,
                "since": one.since.isoformat(),
            }
            for one in models
        ]
    )
    with database.transaction() as session:
        session.execute(update(ProcessRow).where(ProcessRow.id == worker).values(loaded=written))


def read_loaded(text: str) -> tuple[LoadedModel, ...]:
    """Read what a row keeps; what another version wrote in another form is left out."""
    try:
        return tuple(
            LoadedModel(
                ModelIdentity(*one["model"]),
                one["kind"],
                one["runtime"],
                one["bytes"],
                datetime.fromisoformat(one["since"]),
            )
            for one in (json.loads(text) if text else ())
        )
    except (ValueError, LookupError, TypeError):
        return ()
