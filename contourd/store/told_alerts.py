"""What each channel was told and is still so: the next node that leads goes on where the last one stopped."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import delete, select

from contourd.store.database import Database
from contourd.store.locks import insert_absent
from contourd.store.tables import ToldAlertRow
from contourd.system.clock import Clock, utc_now

# Of no channel: says that what an earlier version kept in a file was carried over.
CARRIED_OVER = ("", "carried over")


class ToldAlerts:
    """What was told, of one database. Each call raises QueueUnavailable."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._now = clock

    def read(self) -> dict[str, list[str]]:
        """Return the keys of what each channel was told, in the order in which it was."""
        wanted = select(ToldAlertRow).where(ToldAlertRow.channel != "")
        told = dict[str, list[str]]()
        with self._database.reading() as session:
            for row in session.scalars(wanted.order_by(ToldAlertRow.told_at, ToldAlertRow.key)):
                told.setdefault(row.channel, []).append(row.key)
        return told

    def keep(self, channel: str, keys: Collection[str]) -> None:
        """Have these, and no others, be what a channel was told."""
        of_channel = ToldAlertRow.channel == channel
        with self._database.transaction() as session:
            session.execute(delete(ToldAlertRow).where(of_channel, ToldAlertRow.key.not_in(keys)))
            known = set(session.scalars(select(ToldAlertRow.key).where(of_channel)))
            session.add_all(
                ToldAlertRow(channel=channel, key=key, told_at=self._now()) for key in keys if key not in known
            )

    def carry_over(self, told: Mapping[str, Collection[str]]) -> bool:
        """Take over what an earlier version kept, once for all hosts; returns whether it was taken now."""
        channel, key = CARRIED_OVER
        with self._database.transaction() as session:
            if not insert_absent(session, ToldAlertRow(channel=channel, key=key, told_at=self._now())):
                return False
            for name, keys in told.items():
                for one in keys:
                    insert_absent(session, ToldAlertRow(channel=name[:16], key=one[:255], told_at=self._now()))
        return True

    def forget(self) -> None:
        """Have every channel be told everything again that is still so."""
        with self._database.transaction() as session:
            session.execute(delete(ToldAlertRow).where(ToldAlertRow.channel != ""))
