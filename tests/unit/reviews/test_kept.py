"""How long the files of what came back stay, who may send them, and what a person is shown."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contourd.checks.reviews import reviewers
from contourd.errors import SettingsError
from contourd.node.retention import Retention
from contourd.reviews.records import read_reviews
from contourd.settings import RetentionSettings, load_settings
from tests.checking import write_settings
from tests.reviewing import Clinic, approved, edited, moved


@pytest.fixture
def clinic(tmp_path, database, series, clock):
    return Clinic(tmp_path, database, series, clock)


@pytest.mark.both_databases
def test_retention_removes_the_file_and_keeps_what_was_found(clinic):
    clinic.contour(clinic.receive_ct())
    came = edited(clinic.draft, moved("Parotid_L", (1.0, 0.0, 0.0)))
    clinic.compared(came)
    unpaired = clinic.come_back(edited(clinic.draft, lambda ds: setattr(ds, "PatientID", "ANOTHER")))
    clinic.runner.run()
    stray = clinic.spool.store_instance([b"x"], "reviews")
    compared = clinic.reviews()[0].path
    days = RetentionSettings(output_days=10, failed_days=20)
    retention = Retention(clinic.database, clinic.spool, days, clinic.clock, clinic.clock.elapsed)

    def there() -> list[bool]:
        return [(clinic.spool.root / path).exists() for path in (compared, unpaired, stray)]

    clinic.clock.advance(timedelta(days=9).total_seconds())
    retention.run()
    assert there()[:2] == [True, True]
    clinic.clock.advance(timedelta(days=2).total_seconds())
    retention.run()
    assert there()[:2] == [False, True]
    clinic.clock.advance(timedelta(days=10).total_seconds())
    retention.run()
    assert there()[:2] == [False, False]
    assert all(row.purged_at for row in clinic.reviews())
    assert len(read_reviews(clinic.database, organ="Parotid_L")) == 1
    clinic.runner.run()  # and nobody looks for the files any more


@pytest.mark.both_databases
def test_what_is_shown_of_a_job(clinic):
    job = clinic.contour(clinic.receive_ct())
    came = edited(clinic.draft, moved("Parotid_L", (1.0, 0.0, 0.0)))
    approved(came, clinic.clock() + timedelta(minutes=31))
    clinic.compared(came)
    (line,) = read_reviews(clinic.database, job=job)
    assert line.hours == pytest.approx(0.5, abs=0.01)
    assert line.counted() == {"touched": 1, "untouched": 2}
    assert read_reviews(clinic.database, job=job + 1) == ()
    assert read_reviews(clinic.database, since=clinic.clock() + timedelta(days=1)) == ()
    (line,) = read_reviews(clinic.database, organ="SpinalCord")
    assert [organ.organ for organ in line.organs] == ["SpinalCord"]


def test_who_may_send_is_checked(tmp_path):
    path = write_settings(tmp_path, "hn7")
    assert "no [[reviewer]]" in reviewers(load_settings(path)).text
    text = path.read_text()
    path.write_text(f'{text}[[reviewer]]\nae_title = "TPS"\ntps = "Eclipse 18"\n')
    assert "TPS (Eclipse 18) may send structure sets back" in reviewers(load_settings(path)).text
    path.write_text(f'{text}[[reviewer]]\nae_title = "TPS"\n[[reviewer]]\nae_title = "TPS"\ndestination = "nowhere"\n')
    with pytest.raises(SettingsError) as raised:
        load_settings(path)
    assert raised.value.problems == (
        "reviewer: the ae_title 'TPS' stands 2 times",
        "reviewer.1.destination: there is no destination 'nowhere'",
    )
    allowed = text.replace("[node]\n", '[node]\nallowed_callers = ["CT1"]\n')
    path.write_text(f'{allowed}[[reviewer]]\nae_title = "TPS"\n')
    with pytest.raises(SettingsError, match="TPS must be in it, for what they review"):
        load_settings(path)
