"""A network of its own for each host: a namespace and a cable (a veth pair) to one bridge, where all else is.

A cable that is pulled loses what is under way, and nobody is told: connections stay, and go on when it is back.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import suppress

TRIES = 20


class Network:
    """The bridge and the cables; as root. Raises OSError where this machine allows none."""

    def __init__(self) -> None:
        self._cables: dict[str, str] = {}
        self._name = f"cd{os.getpid() % 10**6}"
        if shutil.which("ip") is None or shutil.which("nsenter") is None:
            raise OSError("ip or nsenter is not installed")
        self._ip("link", "add", self._name, "type", "bridge")
        try:
            self._net = self._free_net()
            self._ip("link", "set", self._name, "up")
            self.plug("probe")  # namespaces are another right than a bridge
            self.unplug("probe")
        except OSError:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Where the hosts reach what stands outside of them."""
        return f"{self._net}.1"

    @property
    def addresses(self) -> str:
        """All of the network, as PostgreSQL's pg_hba.conf takes it."""
        return f"{self._net}.0/24"

    def address_of(self, host: str) -> str:
        """Where a host is."""
        return f"{self._net}.{11 + list(self._cables).index(host)}"

    def plug(self, host: str) -> tuple[str, ...]:
        """Give a host its cable; returns what starts a program there."""
        space, inner = f"{self._name}-{host}", f"{self._name}i{len(self._cables)}"
        self._cables[host] = outer = f"{self._name}o{len(self._cables)}"
        self._ip("netns", "add", space)
        self._ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        self._ip("link", "set", outer, "master", self._name, "up")
        self._ip("link", "set", inner, "netns", space)
        self._ip("-n", space, "address", "add", f"{self.address_of(host)}/24", "dev", inner)
        for device in ("lo", inner):
            self._ip("-n", space, "link", "set", device, "up")
        return ("nsenter", f"--net=/run/netns/{space}")

    def pull(self, host: str, out: bool) -> None:
        """Pull a host's cable out, or put it in."""
        self._ip("link", "set", self._cables[host], "down" if out else "up")

    def unplug(self, host: str) -> None:
        """Take the cable and the namespace away."""
        with suppress(OSError):
            self._ip("link", "delete", self._cables[host])
        with suppress(OSError):
            self._ip("netns", "delete", f"{self._name}-{host}")
        del self._cables[host]

    def close(self) -> None:
        """Remove all of it."""
        for host in list(self._cables):
            self.unplug(host)
        with suppress(OSError):
            self._ip("link", "delete", self._name)

    def _free_net(self) -> str:
        """Take a network that nothing on this machine uses."""
        for _ in range(TRIES):
            net = f"10.{random.randrange(200, 255)}.{random.randrange(1, 255)}"
            if f" {net}." not in self._ip("-4", "address", "show"):
                self._ip("address", "add", f"{net}.1/24", "dev", self._name)
                return net
        raise OSError("no network is free")

    def _ip(self, *arguments: str) -> str:
        ran = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
        if ran.returncode:
            raise OSError(f"ip {' '.join(arguments)}: {ran.stderr.strip()}")
        return ran.stdout


def make_network() -> Network | None:
    """Make one, if this machine and user may."""
    with suppress(OSError):
        return Network()
    return None
