"""An nnU-Net is imported, put into use, and contours through the real node; the same bytes can be made again."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from contourd.cli import app
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.settings import load_settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from tests.integration.quick_node import watched
from tests.interop.node import serve, write_configuration
from tests.nnunet import TRAINED, phantom
from tests.peers import free_port, storescp, storescu

# nnunetv2 is loaded four times over, and tried on the reference patient.
pytestmark = [pytest.mark.peers, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
# No organs of the reference patient: in it a network of phantoms finds what it may.
ORGANS = """axes = "SPL"

[organs]
parotid_left = "BallOne"
parotid_right = "BallTwo"
Brainstem = "BallThree"
implant = ""
"""


def contourd(*words):
    ran = CliRunner().invoke(app, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    return ran.output


def delivered(status):
    return [job["id"] for job in status["jobs"] if job["state"] == "DELIVERED"]


def test_from_the_results_folder_to_the_destination(tmp_path):
    folder, port, organs = tmp_path / "node", free_port(), tmp_path / "organs.toml"
    organs.write_text(ORGANS)
    bundle = tmp_path / "balls"
    told = contourd("models", "import", TRAINED, "--name", "balls", "--organs", organs, "--output", bundle)
    assert "is not in use" in told
    with storescp(tmp_path / "pacs", "PACS") as pacs:
        names = {"pacs": (pacs.ae_title, pacs.port)}
        configuration = write_configuration(folder, port, "balls", names)
        settings = load_settings(configuration)
        Spool(settings.spool.root)
        database = Database(settings.database_url)
        database.prepare()
        database.close()
        asked = ("--config", configuration)
        why = ("--reason", "phantoms", "--without-record", "a test")
        assert "is in use" in contourd("models", "activate", bundle, *why, *asked)
        volume, _ = phantom(0)
        ct = write_ct_series(volume, tmp_path / "ct", SeriesIdentity("p1", "Phantom^One"))
        with serve(folder, "balls", names, port) as served:
            node = watched(served)
            storescu(port, ct)
            status = node.wait_until(lambda status: delivered(status) == [1])
            assert status["jobs"][0]["contoured_with"]["name"] == "balls"
            assert "the same bytes" in contourd("replay", "1", *asked)
        (dataset,) = pacs.datasets()
    assert {"BallTwo", "BallThree"} <= {roi.ROIName for roi in dataset.StructureSetROISequence}
    assert "in use without a commissioning record: a test" in dataset.StructureSetDescription
