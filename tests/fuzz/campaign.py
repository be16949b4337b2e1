"""The long form: `make fuzz` plays each campaign in a process and prints the figures; status 1 where any is bad."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from contourd.system.memory import use_one_arena
from tests.fuzz.bounds import FILES, GROWTH_MB, PEAK_MB, Figures
from tests.fuzz.outgoing import run_destinations, run_notices
from tests.fuzz.page import run_page
from tests.fuzz.reading import run_reader
from tests.fuzz.receiving import run_connections, run_stores

# Shares of the inputs, in hundredths: a connection costs some ten times what a dataset does.
CAMPAIGNS: Mapping[str, tuple[Callable[[Path, int, range, float], Figures], int]] = {
    "reader": (run_reader, 40),
    "stores": (run_stores, 20),
    "connections": (run_connections, 10),
    "answers": (run_destinations, 10),
    "notices": (run_notices, 10),
    "requests": (run_page, 10),
}


def play(name: str, seed: int, first: int, count: int, seconds: float) -> Figures:
    """Run one campaign in this process."""
    warnings.simplefilter("ignore")  # pydicom warns of much that is odd
    logging.disable(logging.CRITICAL)
    threads: list[str] = []
    threading.excepthook = lambda told: threads.append(f"thread: {told.exc_type.__name__} {told.exc_value}"[:300])
    use_one_arena()  # as `contourd serve` does
    run, _ = CAMPAIGNS[name]
    with tempfile.TemporaryDirectory() as folder, FILES.only(writing=Path(folder)):
        figures = run(Path(folder), seed, range(first, first + count), seconds)
    figures.failures += threads
    return figures


def play_apart(
    names: Sequence[str], seed: int, first: int, counts: Mapping[str, int], seconds: float = float("inf")
) -> Iterator[Figures]:
    """Run campaigns side by side, each in a fresh process, whose memory is then its own."""
    with multiprocessing.get_context("spawn").Pool(len(names)) as pool:
        running = [pool.apply_async(play, (name, seed, first, counts[name], seconds)) for name in names]
        for one in running:
            yield one.get()


def main() -> int:
    """Play all campaigns at once."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="all campaigns together")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same seed gives the same inputs")
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, help="some campaigns; the inputs are shared out evenly")
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to play one again")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    names = given.only or list(CAMPAIGNS)
    shares = {name: 100 // len(given.only) if given.only else CAMPAIGNS[name][1] for name in names}
    counts = {name: given.inputs * share // 100 for name, share in shares.items()}
    began, bad, inputs = time.monotonic(), False, 0
    for figures in play_apart(names, given.seed, given.first, counts, given.seconds):
        print(figures.text(), flush=True)
        for failure in figures.failures[:50]:
            print(f"    {failure!r}")
        inputs += figures.inputs
        bad |= bool(figures.failures) or figures.growth_mb > GROWTH_MB or figures.peak_mb > PEAK_MB
    print(f"{inputs} inputs in {time.monotonic() - began:.0f} s: {'FAILED' if bad else 'no crash, no hang, no growth'}")
    return int(bad)
