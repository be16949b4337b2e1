"""The constancy check through a running node: green, then red for another model, and nothing at the destination."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from contourd.model.library import SHIPPED_MODELS
from tests.integration.destination import receiver
from tests.integration.quick_node import QuickNode, watched
from tests.interop.node import contourd, serve, write_configuration
from tests.peers import free_port, running

MADE_AGAIN = (("baseline", "made"),)


def command(node: QuickNode, name: str) -> tuple[int, str]:
    ran = contourd("constancy", name, "--config", node.configuration)
    return ran.status, ran.output


def printed(node: QuickNode, text: str) -> list[str]:
    """Return the commands that a text tells people to type, with the configuration that was given."""
    return re.findall(rf"contourd [^`;\n]*? --config {re.escape(str(node.configuration))}", text)


def type_line(line: str) -> tuple[int, str]:
    program, *words = shlex.split(line)
    assert program == "contourd"
    ran = contourd(*words)
    return ran.status, ran.output


def shown(node: QuickNode) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        contourd("constancy", "show", "--json", "--config", str(node.configuration)).output
    )
    return found


def test_green_then_red_and_nothing_at_the_destination(tmp_path: Path) -> None:
    bundle = tmp_path / "hn7"
    shutil.copytree(SHIPPED_MODELS / "hn7", bundle)
    with (
        receiver() as pacs,
        serve(
            tmp_path / "node",
            bundle,
            {"pacs": ("RECEIVER", pacs.port), "tps": ("TPS", free_port())},
            more="[constancy]\ntime_factor = 100.0\n",
            node='allowed_callers = ["CT1"]\nallowed_peers = ["127.0.0.1"]',
        ) as started,
    ):
        node = watched(started)
        assert node.status()["constancy"]["state"] == "NO BASELINE"
        status, output = command(node, "run")
        assert status == 1
        (baseline,) = printed(node, output)

        status, output = type_line(baseline)
        assert status == 0, output + node.log
        assert "made and signed" in output
        (run,) = printed(node, output)
        status, output = type_line(run)
        assert status == 0, output + node.log
        assert "Brainstem        Dice 1.0000   centroid moved by 0.000 mm" in output
        assert "remark: C-ECHO failed: tps" in output
        standing = shown(node)
        assert (standing["state"], standing["last"]) == ("GREEN", 2)

        model = json.loads((bundle / "model.json").read_text())
        (bundle / "model.json").write_text(json.dumps({**model, "version": "2"}))
        status, output = command(node, "run")
        assert (status, "is another model than the baseline's" in output) == (1, True)
        (again,) = set(printed(node, output))

        status_now = node.status()
        assert status_now["constancy"]["state"] == "RED"
        assert (status_now["jobs"], status_now["series"], set(status_now["counts"].values())) == ([], [], {0})
        assert [d["tries"] for d in status_now["destinations"]] == [{}, {}]
        assert pacs.received == []
        assert not (node.folder / "spool" / "constancy").exists()
        status, output = type_line(again)
        assert (status, "made and signed" in output) == (0, True), output + node.log
    audited = contourd("audit", "--action", "constancy", "--config", node.configuration).output.splitlines()
    for line, (purpose, outcome) in zip(
        audited, [("baseline", "made"), ("check", "green"), ("check", "red"), *MADE_AGAIN], strict=True
    ):
        assert f"constancy {purpose}" in line
        assert f"  {outcome}" in line


@pytest.mark.parametrize("name", ["run", "baseline"])
def test_without_a_node_nothing_is_tried(tmp_path: Path, name: str) -> None:
    assert contourd("constancy", name, "--config", tmp_path / "none.toml").status == 2


def test_what_is_printed_where_nobody_serves_starts_a_node(tmp_path: Path) -> None:
    """Before the first start, and after it was stopped."""
    port = free_port()
    configuration = write_configuration(tmp_path, port, "hn7", {"pacs": ("PACS", free_port())})
    for told in ("there is no queue in", "no contourd serves"):
        ran = contourd("constancy", "baseline", "--config", configuration)
        assert (ran.status, told in ran.output) == (2, True), ran.output
        (line,) = re.findall(r"`(contourd .*?)`", ran.output)
        program, *words = shlex.split(line)
        assert program == "contourd"
        with running([sys.executable, "-m", "contourd", *words], port, tmp_path / "contourd.log") as server:
            server.terminate()
            assert server.wait(60) == 0
