"""``python -m tests.chaos``, or ``make chaos``: the long form. Prints what was acknowledged, lost and doubled."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.campaign import kill_at_points, kill_at_random
from tests.chaos.points import NAMED, of_transitions
from tests.chaos.site import Site, site
from tests.chaos.verdict import Verdict, judge
from tests.interop.conftest import make_bright_bundle

SEED = 20261124
LONGEST_S = 6.0
SETTLING_S = 900.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill contourd at every point and at random moments.")
    parser.add_argument("--kills", type=int, default=200, help="at random moments")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", default="", help="only the points whose name holds this")
    parser.add_argument("--keep", type=Path, help="folder that is kept; else a temporary one")
    asked = parser.parse_args()
    points = [point for point in (*of_transitions(), *NAMED) if asked.only in point.name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        bundle = make_bright_bundle(folder / "bright")
        verdicts = []
        if points:
            with site(folder / "points", bundle, asked.seed) as node:
                kill_at_points(node, points, tell)
                verdicts.append(report(f"{len(points)} points by name", node))
        if asked.kills and not asked.only:
            with site(folder / "random", bundle, asked.seed) as node:
                kill_at_random(node, asked.kills, random.Random(asked.seed), LONGEST_S, tell)
                verdicts.append(report(f"{asked.kills} random moments, seed {asked.seed}", node))
    return int(any(verdict.problems for verdict in verdicts))


def report(what: str, node: Site) -> Verdict:
    began = time.monotonic()
    status = node.settle(SETTLING_S)
    verdict = judge(node)
    tell(
        f"{what}: {node.kills} kills; {verdict.acknowledged} instances acknowledged in {verdict.series} series, "
        f"{verdict.lost} lost; structure sets: {verdict.missing} missing, {verdict.doubled} doubled, "
        f"{verdict.sent_again} sent again unchanged; exit status {status}; settled in {time.monotonic() - began:.0f} s"
    )
    for problem in verdict.problems:
        tell(f"  {problem}")
    assert status == 0
    return verdict


def tell(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
