"""Pictures of the terminal for docs/: the real commands, run here, drawn as SVG; ``make screenshots`` writes them.

Folders of this machine are shown by the names that they have in the documents.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import StringIO
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from contourd.settings import load_settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from tests import showcase
from tests.peers import free_port

COLUMNS = 104
SHOWN_SPOOL = "/var/lib/contourd"
PORTS = ("11112", "11180")  # the node's, and its page's
# Nothing comes from elsewhere: a reader's own fixed-width font does.
FORMAT = re.sub(r"@font-face \{\{.*?\n    \}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "monospace"
)


def main(folder: Path) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as name:
        root = Path(name)
        picture(folder / "terminal-demo.svg", root, ["demo"])
        picture(folder / "terminal-check.svg", root, ["init", "--yes"], ["check"])
        settle(root)
        picture(folder / "terminal-status.svg", root, ["status"])


def picture(path: Path, root: Path, *commands: list[str]) -> None:
    """Run commands in a folder and draw what they print."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, legacy_windows=False)
    for command in commands:
        console.print(Text(f"$ contourd {' '.join(command)}", style="bold"))
        console.print(Text.from_ansi(printed(root, command)))
        if command[0] == "init":
            move_spool(root)
    console.print()  # else the last line is cut off at its foot
    svg = console.export_svg(title="contourd", code_format=FORMAT, unique_id=path.stem)
    path.write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE) + "\n", encoding="utf-8")


def printed(root: Path, command: list[str]) -> str:
    """Return what a command prints on a terminal of this width, with the names of the documents."""
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    ran = subprocess.run(
        [sys.executable, "-m", "contourd", *command],
        cwd=root,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    text = last_of_bars((ran.stdout + ran.stderr).rstrip("\n"))
    text = text.replace(str(root / "spool"), SHOWN_SPOOL).replace(f"{root}{os.sep}", "")
    for here, documented in moved_ports(root):
        text = text.replace(here, documented)
    return text


def last_of_bars(text: str) -> str:
    """Leave out the earlier states of a progress bar, which a terminal draws in one place."""
    lines = text.split("\n")
    bar = "sending by C-STORE"
    return "\n".join(line for line, after in pairwise([*lines, ""]) if not (bar in line and bar in after))


def move_spool(root: Path) -> None:
    """Let the node of these settings live in the folder, on ports that are free."""
    file = root / "contourd.toml"
    text = file.read_text(encoding="utf-8").replace(SHOWN_SPOOL, str(root / "spool"))
    for port in PORTS:
        text = re.sub(rf"^port = {port}", f"port = {free_port()}", text, flags=re.MULTILINE)
    file.write_text(text, encoding="utf-8")


def moved_ports(root: Path) -> list[tuple[str, str]]:
    """Return the node's ports here, each with that of the documents."""
    file = root / "contourd.toml"
    if not file.exists():
        return []
    settings = load_settings(file)
    return [(str(settings.node.port), PORTS[0]), (str(settings.web.port), PORTS[1])]


def settle(root: Path) -> None:
    """Fill the node's queue as it may look one morning; it has a planning system beside the archive."""
    file = root / "contourd.toml"
    second = '\n[[destination]]\nname = "tps"\nae_title = "TPS"\nhost = "192.0.2.7"\nport = 104\n'
    file.write_text(file.read_text(encoding="utf-8") + second, encoding="utf-8")
    spool, database = Spool(root / "spool"), Database(f"sqlite:///{root / 'spool' / 'contourd.sqlite'}")
    database.upgrade()
    showcase.fill_queue(database, spool)
    database.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
