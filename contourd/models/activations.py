"""What was put into use under a model's name: every activation and every way back, appended and never changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from contourd.errors import InvalidTransition
from contourd.model.library import Activation, FoundModel, find_model
from contourd.model.model_identity import ModelIdentity
from contourd.model.model_names import names_of_text
from contourd.store.audit import AuditEntry, audit_row
from contourd.store.database import Database
from contourd.store.locks import take_turns
from contourd.store.states import JobState
from contourd.store.tables import ActivationRow, JobRow
from contourd.system.clock import Clock, utc_now


class Activations:
    """The activations of one database; ``root`` is the spool's."""

    def __init__(self, database: Database, root: Path, clock: Clock = utc_now) -> None:
        self._database = database
        self._root = root
        self._now = clock

    def find(self, asked: str) -> FoundModel:
        """Find the model that a name or a folder stands for now; raises QueueUnavailable."""
        return find_model(asked, self._root, self.active(asked))

    def number(self) -> int:
        """Return the number of the last activation of any name, 0 where there was none."""
        with self._database.reading() as session:
            return session.scalar(select(func.max(ActivationRow.id))) or 0

    def active(self, name: str) -> Activation | None:
        """Return the activation that is in force for a name."""
        rows = self.history(name)
        return rows[-1] if rows else None

    def history(self, name: str = "") -> tuple[Activation, ...]:
        """Return the activations of a name, or of all, in their order."""
        with self._database.reading() as session:
            return read_activations(session, name)

    def activate(
        self, model: ModelIdentity, folder: str, actor: str, reason: str, before: str = "", measured: bool = False
    ) -> Activation:
        """Put a stored bundle into use for its name.

        Parameters
        ----------
        before
            What the name stood for, in words, for the audit trail.
        measured
            A record of it is new: it may be in use already.

        Raises
        ------
        InvalidTransition
            It is in use already, or no reason was given.
        """
        if not reason.strip():
            raise InvalidTransition("give a reason: it is kept with the activation and in the audit trail")
        with self._database.transaction() as session:
            rows = _locked(session, model.name)
            if rows and rows[-1].model == model and rows[-1].folder == folder and not measured:
                raise InvalidTransition(
                    f"{model.text()} is in use already since {rows[-1].at:%Y-%m-%d %H:%M} UTC; its copy is whole"
                )
            activation = Activation(0, self._now(), model, folder, actor[:64], reason.strip())
            return self._append(session, activation, before)

    def before(self, name: str) -> Activation | None:
        """Return the activation that a rollback would put in force again, None: the shipped model, or none.

        Raises
        ------
        InvalidTransition
            Nothing was activated under that name, or everything was taken back.
        """
        return _before(self.history(name), name)

    def roll_back(
        self, name: str, shipped: ModelIdentity | None, actor: str, reason: str, before: str = ""
    ) -> Activation:
        """Put in force again what was before the last activation that was not taken back.

        Parameters
        ----------
        shipped
            The shipped model of that name, None where there is none: then the name is out of use.

        Raises
        ------
        InvalidTransition
            There is nothing to go back to.
        """
        with self._database.transaction() as session:
            rows = _locked(session, name)
            restored, undone = _before(rows, name), _standing(rows)[-1]
            model = restored.model if restored else shipped or ModelIdentity(name, "", "")
            folder = restored.folder if restored else ""
            activation = Activation(0, self._now(), model, folder, actor[:64], reason.strip(), undone.id)
            return self._append(session, activation, before)

    def _append(self, session: Session, activation: Activation, before: str) -> Activation:
        model = activation.model
        row = ActivationRow(
            at=activation.at, name=model.name, version=model.version, sha256=model.sha256, folder=activation.folder
        )
        row.actor = activation.actor
        row.reason = activation.reason
        row.undoes = activation.undoes
        session.add(row)
        session.flush()
        is_open = JobRow.state.in_((JobState.QUEUED, JobState.CONTOURING))
        asked = session.scalars(select(JobRow.model).where(is_open).distinct())
        named = [text for text in asked if model.name in names_of_text(text)]
        of_name = update(JobRow).where(JobRow.model.in_(named), is_open)
        session.execute(of_name.values(contouring_order=""))  # what waits gets the new one
        action = "model activate" if activation.undoes is None else "model rollback"
        now = "out of use" if activation.out_of_use else f"{model.version}, sha256 {model.sha256}"
        parts = [now, f"before: {before}" if before else "", activation.reason]
        detail = "; ".join(filter(None, parts))
        session.add(audit_row(activation.at, AuditEntry(activation.actor, action, f"model {model.name}", detail)))
        return _activation(row)


def read_activations(session: Session, name: str = "") -> tuple[Activation, ...]:
    """Read the activations of a name, or of all, inside the caller's transaction."""
    wanted = select(ActivationRow).order_by(ActivationRow.id)
    if name:
        wanted = wanted.where(ActivationRow.name == name)
    return tuple(map(_activation, session.scalars(wanted)))


def _locked(session: Session, name: str) -> tuple[Activation, ...]:
    """Read a name's activations; whoever else activates waits (SQLite: for the whole transaction)."""
    take_turns(session, f"activation of {name}")
    wanted = select(ActivationRow).where(ActivationRow.name == name).order_by(ActivationRow.id)
    return tuple(map(_activation, session.scalars(wanted)))


def _standing(rows: Iterable[Activation]) -> list[Activation]:
    """Return the activations that were not taken back, in their order."""
    standing: list[Activation] = []
    for row in rows:
        if row.undoes is None:
            standing.append(row)
        else:
            standing.pop()
    return standing


def _before(rows: tuple[Activation, ...], name: str) -> Activation | None:
    standing = _standing(rows)
    if not standing:
        raise InvalidTransition(f"there is nothing to take back: no activation of {name} is in force")
    return standing[-2] if len(standing) > 1 else None


def _activation(row: ActivationRow) -> Activation:
    model = ModelIdentity(row.name, row.version, row.sha256)
    return Activation(row.id, row.at, model, row.folder, row.actor, row.reason, row.undoes)
