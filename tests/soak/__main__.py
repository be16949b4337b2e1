"""``python -m tests.soak``, or ``make soak``: prints what those who receive have before and after a long load."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.bundles import make_bright_bundle
from tests.chaos.peers import Destination
from tests.interop.node import serve
from tests.rogues import Moody, rogue
from tests.soak.load import Limits, Load, soak

LIMITS = Limits(rss_mb=50.0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Load a node for long and see whether it grows.")
    parser.add_argument("--warm-up", type=int, default=4, help="associations before the first measurement")
    parser.add_argument("--associations", type=int, default=40)
    parser.add_argument("--instances", type=int, default=250, help="of each association")
    parser.add_argument("--echoes", type=int, default=2000, help="associations; and as many bare connections")
    parser.add_argument("--keep", type=Path, help="folder that is kept; else a temporary one")
    asked = parser.parse_args()
    load = Load(asked.warm_up, asked.associations, asked.instances, asked.echoes)
    began, destination, moody = time.monotonic(), Destination("pacs"), Moody()
    try:
        with tempfile.TemporaryDirectory() as temporary, rogue(moody.play) as other:
            folder = asked.keep or Path(temporary)
            names = {destination.name: (destination.ae_title, destination.port), "moody": ("ROGUE", other.port)}
            with serve(folder / "node", make_bright_bundle(folder / "bright"), names) as node:
                soaked = soak(node, folder, load, tell)
    finally:
        destination.stop()
    print(soaked.text())
    print(
        f"{load.associations * load.instances} instances in {load.associations} associations, {load.echoes} echoes, "
        f"{load.echoes} bare connections, {moody.calls} calls of a destination that breaks the rules, "
        f"{time.monotonic() - began:.0f} s"
    )
    exceeded = LIMITS.exceeded(soaked.idle.grown(soaked.warm))
    print("\n".join(exceeded) or "within the limits")
    return int(bool(exceeded))


def tell(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
