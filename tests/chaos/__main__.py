"""``python -m tests.chaos``, or ``make chaos``: the long form. Prints what was acknowledged, lost and doubled."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bundles import make_bright_bundle
from tests.chaos.campaign import kill_at_points, kill_at_random
from tests.chaos.hearing import BLOWS, strike_parts
from tests.chaos.hosts import several_hosts
from tests.chaos.hosts_campaign import strike_at_random
from tests.chaos.points import NAMED, of_transitions
from tests.chaos.site import Site, site
from tests.chaos.verdict import Verdict, judge, judge_hosts

SEED = 20261124
LONGEST_S = 5.0
SETTLING_S = 1800.0
POINTS_OF_A_NODE, KILLS_OF_A_NODE = 10, 50


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill contourd at every point and at random moments.")
    parser.add_argument("--kills", type=int, default=200, help="at random moments")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", default="", help="only the points whose name holds this")
    parser.add_argument("--first", type=int, default=0, help="number of the first point, to go on where one ended")
    parser.add_argument("--parts", action="store_true", help="only parts of a running node, and what it says of itself")
    parser.add_argument("--hosts", type=int, default=0, help="only several hosts, so many times at random moments")
    parser.add_argument("--keep", type=Path, help="folder that is kept; else a temporary one")
    asked = parser.parse_args()
    if asked.hosts:
        return strike_hosts(asked.hosts, asked.seed, asked.keep)
    points = [] if asked.parts else [point for point in (*NAMED, *of_transitions()) if asked.only in point.name]
    points = points[asked.first :]
    began, rng = time.monotonic(), random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        bundle = make_bright_bundle(folder / "bright")
        verdicts = []
        for first in range(0, len(points), POINTS_OF_A_NODE):
            with site(folder / f"points{first}", bundle, asked.seed + first) as node:
                kill_at_points(node, points[first : first + POINTS_OF_A_NODE], tell)
                verdicts.append(report(node))
        for first in range(0, 0 if asked.parts else asked.kills, KILLS_OF_A_NODE):
            with site(folder / f"random{first}", bundle, asked.seed + first) as node:
                kill_at_random(node, min(KILLS_OF_A_NODE, asked.kills - first), rng, LONGEST_S, tell)
                verdicts.append(report(node))
        with site(folder / "parts", bundle, asked.seed, page=True) as node:
            heard = strike_parts(node, [blow for blow in BLOWS if asked.only in blow.name], tell)
            verdicts.append(report(node))
    wrong = [problem for one in heard for problem in one.problems]
    for problem in wrong:
        tell(f"  {problem}")
    told = total(verdicts)
    kills = 0 if asked.parts else asked.kills
    tell(f"{len(points)} points by name, {kills} random moments, {len(heard)} parts, seed {asked.seed}: {told}")
    tell(f"{time.monotonic() - began:.0f} s")
    return int(bool(wrong) or any(verdict.problems for verdict in verdicts))


def strike_hosts(kills: int, seed: int, keep: Path | None) -> int:
    """Strike two receivers, three workers, PostgreSQL and the store at random moments."""
    began, rng, verdicts = time.monotonic(), random.Random(seed), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        bundle = make_bright_bundle(folder / "bright")
        for first in range(0, kills, KILLS_OF_A_NODE):
            with several_hosts(folder / f"hosts{first}", bundle, seed + first) as hosts:
                strike_at_random(hosts, min(KILLS_OF_A_NODE, kills - first), rng, tell)
                hosts.settle(SETTLING_S)
                verdicts.append(judge_hosts(hosts))
            tell(total(verdicts[-1:]))
            for problem in verdicts[-1].problems:
                tell(f"  {problem}")
    tell(f"several hosts, seed {seed}: {total(verdicts)}")
    tell(f"{time.monotonic() - began:.0f} s")
    return int(any(verdict.problems for verdict in verdicts))


def report(node: Site) -> Verdict:
    status = node.settle(SETTLING_S)
    verdict = judge(node)
    tell(f"{total([verdict])}; exit status {status}")
    for problem in verdict.problems:
        tell(f"  {problem}")
    assert status == 0
    return verdict


def total(verdicts: Sequence[Verdict]) -> str:
    acknowledged, series, lost, doubled, missing, late, again, kills = (
        sum(getattr(verdict, name) for verdict in verdicts)
        for name in ("acknowledged", "series", "lost", "doubled", "missing", "late", "sent_again", "kills")
    )
    return (
        f"{kills} kills; {acknowledged} instances acknowledged in {series} series, {lost} lost; "
        f"structure sets: {missing} missing, {doubled} doubled, {late} late results sent, {again} sent again unchanged"
    )


def tell(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
