"""The configuration file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from contourd.errors import SettingsError
from contourd.profiles import PROFILES
from contourd.settings import Settings, load_settings, require_models, shown_settings

ETC = Path(__file__).resolve().parents[3] / "etc" / "contourd.toml"
GOOD = """
[[destination]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
[[route]]
model = "{model}"
destinations = ["pacs"]
"""


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text("{}")
    return folder


def write(tmp_path, text: str) -> Path:
    path = tmp_path / "contourd.toml"
    path.write_text(text)
    return path


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as error:
        load_settings(path)
    assert all(problem in str(error.value) for problem in error.value.problems)
    return error.value.problems


def test_defaults(tmp_path, model):
    settings = load_settings(write(tmp_path, GOOD.format(model=model)))
    assert (settings.node.ae_title, settings.node.port, settings.node.host) == ("CONTOURD", 11112, "0.0.0.0")
    assert (settings.series.quiet_s, settings.series.gapped_s) == (15.0, 180.0)
    assert settings.database_url == "sqlite:////var/lib/contourd/contourd.sqlite"
    assert settings.route[0].destinations == ("pacs",)


def test_every_problem_is_told_at_once(tmp_path):
    text = """
[node]
ae_title = "MUCH TOO LONG A TITLE"
port = 70000
colour = "red"
[series]
quiet_s = -1
[[destination]]
name = "pacs"
ae_title = "A"
host = "h"
port = 1
[[destination]]
name = "pacs"
ae_title = "B"
host = "h"
port = 2
[[route]]
model = "nowhere"
destinations = ["tps"]
series_description = "("
"""
    found = problems(write(tmp_path, text))
    for start in (
        "node.ae_title:",
        "node.port:",
        "node.colour:",
        "series.quiet_s:",
        "destination: the name 'pacs'",
        "route.0.destinations: there is no destination 'tps'",
        "route.0.series_description: not a regular expression",
    ):
        assert any(problem.startswith(start) for problem in found), start
    assert len(found) == 7


@pytest.mark.parametrize("part", ["destination", "route"])
def test_a_node_without_route_or_destination_is_refused(tmp_path, model, part):
    head, tail = GOOD.format(model=model).split("[[route]]")
    text = head if part == "route" else "[[route]]" + tail
    assert any(problem.startswith(part) for problem in problems(write(tmp_path, text)))


def test_a_model_that_is_not_there_stops_serve_alone(tmp_path, model):
    text = GOOD.format(model=model) + GOOD.format(model="nowhere")[GOOD.index("[[route]]") :]
    settings = load_settings(write(tmp_path, text))
    with pytest.raises(SettingsError) as error:
        require_models(settings)
    assert error.value.problems == (
        "route.1.model: no model 'nowhere'; give the name of a shipped or an activated model, or a bundle's folder",
    )
    require_models(load_settings(write(tmp_path, GOOD.format(model=model))))


def test_not_toml_and_not_there(tmp_path):
    assert "not valid TOML" in problems(write(tmp_path, "[node"))[0]
    assert "cannot be read" in problems(tmp_path / "absent.toml")[0]


def test_search(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="--config"):
        load_settings(None)
    write(tmp_path, GOOD.format(model=model))
    assert load_settings(None).destination[0].name == "pacs"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('profile = "varian"', "destination.0.profile: Input should be 'strict', 'eclipse'"),
        ('holes = "pinhole"', "destination.0.holes: Input should be 'keyhole' or 'xor'"),
        ("decimals = 9", "destination.0.decimals: Input should be less than or equal to 4"),
        ('label = "longer than sixteen"', "destination.0.label: String should have at most 16 characters"),
        ('interpreted_type = "EXTERNAL"', "destination.0.interpreted_type: Input should be 'ORGAN'"),
        ('names = { Larynx = "Kehlkopf links oben" }', "destination.0.names.Larynx: String should match pattern"),
        (
            'names = { Larynx = "TheWholeLarynxOfIt" }',
            "destination.0: names: TheWholeLarynxOfIt: profile strict",
        ),
        ('names = { Larynx = "A", Brainstem = "a" }', "destination.0: names: a is given to several organs"),
    ],
)
def test_a_destination_s_profile_is_checked(tmp_path, model, line, told):
    text = GOOD.format(model=model).replace("port = 4242", f"port = 4242\n{line}")
    (problem,) = problems(write(tmp_path, text))
    assert problem.startswith(told)


def test_a_destination_s_own_wishes_replace_its_profile_s(tmp_path, model):
    line = 'profile = "eclipse"\nholes = "xor"\nlabel = "DRAFT"\nnames = { Bone_Mandible = "Mandible" }'
    text = GOOD.format(model=model).replace("port = 4242", f"port = 4242\n{line}")
    profile = load_settings(write(tmp_path, text)).destination[0].structure_set_profile
    assert (profile.name, profile.holes, profile.decimals, profile.label) == ("eclipse", "xor", 2, "DRAFT")
    assert (profile.name_of("Bone_Mandible"), profile.name_of("Larynx")) == ("Mandible", "Larynx")
    assert profile.identity() != PROFILES["eclipse"].identity()


def test_what_a_person_must_look_at_is_kept_longest(tmp_path, model):
    text = GOOD.format(model=model) + "[retention]\ninput_days = 10\nfailed_days = 5\n"
    with pytest.raises(SettingsError, match="failed_days: what a person must look at"):
        load_settings(write(tmp_path, text))


def test_the_documented_file_has_every_key_and_its_default():
    content = tomllib.loads(ETC.read_text())
    documented = Settings.model_validate(content)
    for section in ("node", "spool", "database", "series", "worker", "delivery", "retention", "plausibility", "check"):
        fields = type(getattr(documented, section)).model_fields
        assert set(content[section]) == set(fields) - {"tls", "store"}
        assert getattr(documented, section) == type(getattr(documented, section))()
    text = ETC.read_text()
    assert "# [node.tls]" in text
    assert "# [spool.store]" in text
    for section in ("destination", "route"):
        for key in type(getattr(documented, section)[0]).model_fields:
            assert f"{key} = " in text or f"[{section}.{key}]" in text
    assert "# [[sender]]" in text


@pytest.mark.parametrize(
    ("node", "destination", "senders", "told"),
    [
        ("commitment = true", "", (), "node.commitment: needs a [[sender]]"),
        ("", "", ("CT1",), "sender: senders are called back with node.commitment = true only"),
        ("commitment = true", "", ("CT1", "CT1"), "sender: the ae_title 'CT1' stands 2 times"),
        ('allowed_callers = ["CT1"]', "commitment = true", (), "node.allowed_callers: ORTHANC must be in it"),
        (
            'commitment = true\nallowed_callers = ["CT1"]',
            "",
            ("CT1", "CT2"),
            "node.allowed_callers: CT2 must be in it, for storage commitment",
        ),
    ],
)
def test_storage_commitment_that_cannot_work_is_refused(tmp_path, model, node, destination, senders, told):
    text = f"[node]\n{node}\n" + GOOD.format(model=model).replace("port = 4242", f"port = 4242\n{destination}")
    text += "".join(f'[[sender]]\nae_title = "{title}"\nhost = "h"\nport = 104\n' for title in senders)
    (problem,) = problems(write(tmp_path, text))
    assert problem.startswith(told)


def test_storage_commitment_in_both_roles(tmp_path, model):
    text = "[node]\ncommitment = true\n" + GOOD.format(model=model).replace("4242", "4242\ncommitment = true")
    text += '[[sender]]\nae_title = "CT1"\nhost = "h"\nport = 104\n[sender.tls]\ncheck_host = false\n'
    settings = load_settings(write(tmp_path, text))
    assert (settings.destination[0].commitment, settings.destination[0].commitment_wait_s) == (True, 3600)
    (sender,) = settings.sender
    assert (sender.name, sender.tls is not None and sender.tls.check_host) == ("CT1", False)


STORE = '[spool.store]\nbucket = "contourd"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[spool]\nshared = true\n", "spool.shared: hosts that share a folder need database.url"),
        ('[spool]\ndurable = "store"\n', r'durable: "store" needs \[spool.store\]'),
        ("[spool]\nshared = true\n" + STORE, "shared: hosts have one folder, or an object store"),
        (STORE + 'endpoint = "s3.example"\n', "spool.store.endpoint: an endpoint begins with https://"),
        (STORE + 'endpoint = "https://key:secret@s3.example"\n', "credentials do not belong into the endpoint"),
    ],
)
def test_hosts_have_one_folder_or_one_store(tmp_path, model, text, problem):
    with pytest.raises(SettingsError, match=problem) as caught:
        load_settings(write(tmp_path, text + GOOD.format(model=model)))
    assert "key:secret" not in str(caught.value)


def test_a_store_is_named_and_its_credentials_are_not_shown(tmp_path, model):
    text = STORE + 'credentials_file = "/etc/contourd/s3.credentials"\n[spool]\ndurable = "store"\n'
    settings = load_settings(write(tmp_path, text + GOOD.format(model=model)))
    assert settings.spool.store.bucket == "contourd"
    shown = shown_settings(settings)
    assert {key: shown[key] for key in shown if key.startswith("spool.store.")} == {
        "spool.store.bucket": '"contourd"',
        "spool.store.prefix": '"contourd"',
        "spool.store.region": '"us-east-1"',
        "spool.store.credentials_file": '"/etc/contourd/s3.credentials"',
        "spool.store.timeout_s": "10.0",
    }
