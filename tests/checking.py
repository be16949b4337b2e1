"""Settings of a node that `contourd check` finds nothing wrong with."""

from __future__ import annotations

from pathlib import Path

from tests.peers import LOOPBACK, free_port


def write_settings(folder: Path, model: object, more: str = "", top: str = "") -> Path:
    path = folder / "contourd.toml"
    path.write_text(
        f'{top}[node]\nhost = "{LOOPBACK}"\nport = {free_port()}\n[spool]\nroot = "{folder / "spool"}"\n'
        f'min_free_gb = 0.001\n[worker]\ndevice = "cpu"\nruntime = "torch"\n{more}\n'
        f'[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "{LOOPBACK}"\nport = {free_port()}\n'
        f'[[route]]\nmodel = "{model}"\ndestinations = ["pacs"]\n',
        encoding="utf-8",
    )
    return path
