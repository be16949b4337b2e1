"""An example of each command, shown under its help."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "init": "contourd init --output /etc/contourd/contourd.toml",
        "check": "contourd check --config /etc/contourd/contourd.toml",
        "route": "contourd route CT_FOLDER --calling-ae CT1",
        "echo": "contourd echo pacs",
        "send": "contourd send CT_FOLDER --to CONTOURD@127.0.0.1:11112",
        "accept": "contourd accept pacs --output acceptance",
        "serve": "contourd serve --config /etc/contourd/contourd.toml",
        "worker": "contourd worker --config /etc/contourd/contourd.toml",
        "status": "contourd status --watch",
        "jobs": "contourd jobs --since 7d --state HELD --json",
        "shadows": "contourd shadows --model candidate --since 30d",
        "retry": 'contourd retry 12 --override "tall patient, seen by Dr. Example"',
        "release": "contourd release 7",
        "replace": 'contourd replace 7 --reason "ID corrected in the RIS, order 4711"',
        "alert": "contourd alert --config /etc/contourd/contourd.toml",
        "hold": 'contourd hold 12 --reason "the mask is to be looked at"',
        "confirm": "contourd confirm 12",
        "cancel": 'contourd cancel 12 --reason "sent by mistake"',
        "resend": "contourd resend 12 --to archive",
        "recontour": "contourd recontour 12 --model BUNDLE",
        "replay": "contourd replay 12 --output again.dcm",
        "reviews": "contourd reviews --job 12",
        "models list": "contourd models list --config /etc/contourd/contourd.toml",
        "models show": "contourd models show hn7",
        "models verify": "contourd models verify",
        "models import": "contourd models import RESULTS_FOLDER --name glands",
        "models commission": "contourd models commission BUNDLE DATASET --output RECORD",
        "models activate": 'contourd models activate BUNDLE --record RECORD --reason "trained on our own patients"',
        "models rollback": 'contourd models rollback hn7 --reason "cords too short"',
        "audit": "contourd audit --since 2h --json",
        "db backup": "contourd db backup /backup/contourd.sqlite",
        "db restore": "contourd db restore /backup/contourd.sqlite",
        "db upgrade": "contourd db upgrade --config /etc/contourd/contourd.toml",
        "db downgrade": "contourd db downgrade 0002",
        "db move": "contourd db move postgresql://contourd@db.example.org/contourd",
        "db adopt": "contourd db adopt --config /etc/contourd/contourd.toml",
        "db describe": "contourd db describe --config /etc/contourd/contourd.toml",
        "constancy baseline": "contourd constancy baseline --config /etc/contourd/contourd.toml",
        "constancy run": "contourd constancy run --config /etc/contourd/contourd.toml",
        "constancy show": "contourd constancy show --last 30",
        "contour": "contourd contour CT_FOLDER --output rt.dcm",
        "demo": "contourd demo --output demo-output",
        "curate": "contourd curate ARCHIVE --output DATASET",
        "train": "contourd train DATASET --output BUNDLE --recipe quick",
        "recipe list": "contourd recipe list",
        "recipe show": "contourd recipe show quick > mine.toml",
        "evaluate": "contourd evaluate BUNDLE DATASET --output REPORT",
        "ablate": "contourd ablate quick DATASET --output TABLE",
    }
)
