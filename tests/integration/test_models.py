"""A model is activated and taken back while the real node serves; jobs are made again beside it."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from contourd.cli import app
from contourd.settings import load_settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from tests.bundles import brighter_bundle, bundle_of_version, damage
from tests.integration.quick_node import watched
from tests.interop.node import serve, write_configuration
from tests.peers import free_port, storescp, storescu

pytestmark = pytest.mark.peers


def make_queue(settings):
    """Make what the first start would: no route's model is there yet."""
    Spool(settings.spool.root)
    database = Database(settings.database_url)
    database.prepare()
    database.close()


def contourd(*words):
    """Give a command in this process: torch is loaded already."""
    ran = CliRunner().invoke(app, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    return ran


def delivered(status):
    return [job["id"] for job in status["jobs"] if job["state"] == "DELIVERED"]


def test_a_model_is_changed_under_the_running_node(tmp_path, fit_bundle, make_series):
    first = bundle_of_version(fit_bundle, tmp_path / "first", "1")
    second = brighter_bundle(fit_bundle, tmp_path / "second")
    folder, port = tmp_path / "node", free_port()
    with storescp(tmp_path / "pacs", "PACS") as pacs:
        names = {"pacs": (pacs.ae_title, pacs.port)}
        configuration = write_configuration(folder, port, "bright", names)
        asked = ("--config", configuration)
        make_queue(load_settings(configuration))
        assert (
            "is in use"
            in contourd(
                "models", "activate", first, "--reason", "the first", "--without-record", "a test", *asked
            ).output
        )
        with serve(folder, "bright", names, port) as served:
            node = watched(served)
            storescu(port, make_series("p1"))
            node.wait_until(lambda status: delivered(status) == [1])
            activated = contourd(
                "models", "activate", second, "--reason", "better", "--without-record", "a test", *asked
            )
            assert "bright 2 (sha256 " in activated.output
            shutil.rmtree(second)
            storescu(port, make_series("p2"))
            status = node.wait_until(lambda status: delivered(status) == [2, 1])
            assert [job["contoured_with"]["version"] for job in status["jobs"]] == ["2", "1"]
            for job in ("1", "2"):
                assert contourd("replay", job, *asked).output.splitlines()[1] == "the same bytes"
            # What is in use is damaged: the job is held, and the way back is one command.
            stored = folder / "spool" / "models" / f"bright-2-{status['models'][0]['sha256'][:12]}"
            damage(stored / "weights.safetensors")
            storescu(port, make_series("p3"))
            held = node.wait_until(lambda status: status["counts"]["HELD"] == 1)["jobs"][0]
            assert "is damaged" in held["reason"]
            assert "contourd models rollback bright" in held["reason"]
            contourd("models", "rollback", "bright", *asked)
            contourd("retry", held["id"], *asked)
            status = node.wait_until(lambda status: delivered(status) == [3, 2, 1])
            assert [job["contoured_with"]["version"] for job in status["jobs"]] == ["1", "2", "1"]
            assert status["jobs"][0]["attempts"] == 1
        names_of = [ds.StructureSetName for ds in pacs.datasets()]
        assert sorted(names_of) == ["bright 1", "bright 1", "bright 2"]
        trail = contourd("audit", "--json", "--action", "model ", *asked).output.splitlines()
        actions = [json.loads(line)["action"] for line in trail]
        assert actions == ["model activate", "model activate", "model rollback"]
