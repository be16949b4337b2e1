"""Run the benchmarks and write their figures into docs/performance.md.

    python benchmarks [NAME ...]

Without names all of them. A figure that was not measured this time stays as it was; one that lost more than a fifth of
its ratio is named at the end. A benchmark whose peer is not installed says so and leaves its rows alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import psutil
from figures import TOLD_TO, Figure, kept_figure, lost, read_told, table

ROOT = Path(__file__).parent
DOCUMENT, KEPT = ROOT.parent / "docs" / "performance.md", ROOT / "figures.json"
BEGIN, END = "<!-- figures -->", "<!-- end of the figures -->"
# Each with what it is told; in the order of the table.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "network": ("--shape", "178", "302", "225"),
    "rtstruct": (),
    "last_slice": (),
    "job_queue": (),
    "claims": (),
    "scaling": (),
    "receiving": (),
    "start": (),
    "training": (),
    "clinic_day": ("--ramp",),
}


def machine() -> str:
    """Describe this machine in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {psutil.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def run(name: str, told: Path) -> bool:
    """Run one benchmark; its figures go into a file."""
    command = [sys.executable, str(ROOT / f"{name}.py"), *BENCHMARKS[name]]
    print(f"\n{name}", flush=True)
    return subprocess.run(command, env={**os.environ, TOLD_TO: str(told)}, check=False).returncode == 0


def write(kept: dict[str, dict[str, object]], document: Path) -> None:
    """Put the table between its marks."""
    figures = [kept_figure(row) for row in kept.values()]
    commands = {subject: str(row["command"]) for subject, row in kept.items()}
    machines = "\n".join(f"- {m}" for m in dict.fromkeys(str(row["machine"]) for row in kept.values()))
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    content = f"{before}{BEGIN}\n{table(figures, commands)}\n\nMeasured on:\n{machines}\n{END}{after}"
    document.write_text(content, encoding="utf-8")


def main() -> int:
    """Run, write, and tell what was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    old = {subject: kept_figure(row) for subject, row in kept.items()}
    failed, told = [], list[Figure]()
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "figures"
            file.touch()
            if not run(name, file):
                failed.append(name)
            found = read_told(file)
        told += found
        command = " ".join(("python", f"benchmarks/{name}.py", *BENCHMARKS[name]))
        kept |= {f.subject: {**asdict(f), "command": command, "machine": machine()} for f in found}
    order = {name: i for i, name in enumerate(BENCHMARKS)}
    kept = dict(sorted(kept.items(), key=lambda item: order.get(Path(str(item[1]["command"]).split()[1]).stem, 99)))
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    write(kept, DOCUMENT)
    for line in lost(told, old):
        print(f"lost: {line}")
    for name in failed:
        print(f"failed: {name}")
    print(f"\ntable: {DOCUMENT}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
