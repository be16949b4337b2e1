"""What hospitals call their structures, and the review file."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

import pytest

from contourd.errors import DatasetError
from contourd.model.spellings import NO_ORGAN, Certainty, Reading, interpret
from contourd.model.structures import catalogue, etc_folder
from trainer.names import mapping, review

TOOL = Path(__file__).resolve().parents[3] / "shared" / "tools" / "dicom_archive.py"

ORGANS = """
Brainstem: Brainstem, BRAIN_STEM, brain stem, Tronc cérébral, tronco-encefálico, Hirnstamm
SpinalCord: SPINL_CRD, cord, Spinal-Cord, Rückenmark, RUECKENMARK, Moelle épinière, SpinalCord_
Parotid_R: Rt Parotid, PAROTID_RT, parotide dr., Parotis re, Ghiandola parotide dx, RightParotid, PAROTIDR, R. Parotid
Parotid_L: parotide gche, LeftParotid, Glandula parotida izq, Parotida esq, gl. parotis links, L PAROTID, Parotide sx
Bone_Mandible: MAND, Mandibule, Unterkiefer
Larynx: larynx_opt, LARYNX GLOTTIC, Larynx_, Kehlkopf
Esophagus: Esoph., OESOPHAGUS, Speiseröhre, Slokdarm
OpticNrv_L: Optic-Nerve-Lt, ON_L, Left Optic Nerve, N. opticus li
OpticNrv_R: Optic-Nerve-Rt, Nerf optique droit
Glnd_Submand_L: Submandibular-Lt, Submand_L
Eye_R: Orbit-Rt, Eye_R, Auge re
Lens_L: Lens-Lt
Cochlea_R: Cochlea-Rt
Glnd_Lacrimal_L: Lacrimal-Lt
Lung_R: Lung-Rt
SpinalCanal: Spinal-Canal
Brain: Brain
Trachea: Trachea, Trachée, TRACHEE, Luftröhre, Tráquea, Traqueia, Luchtpijp
BrachialPlex_L: BrachialPlex_L, Plexus brachial gauche, Plexus brachialis li, Plesso brachiale sx, Plexo braquial izq
BrachialPlex_R: BrachialPlexus_R, Plexus brac. droit, Plexus-brachialis re, Plexo braquial dir
Glnd_Submand_L: Sous-max gauche, Sous max. gche, Gl. submandibularis li, Ghiandola sottomandibolare sin
Glnd_Submand_R: Glande sous-mandibulaire droite, Unterkieferdrüse re, UNTERKIEFERDRUESE RE, Sottomand. dx
Esophagus: Œsophage, œsophage, Esôfago, SPEISEROEHRE
Eye_R: Œil droit
"""
SPELT = [
    (spelling.strip(), organ)
    for organ, spellings in (line.split(": ") for line in ORGANS.strip().splitlines())
    for spelling in spellings.split(",")
]


@pytest.mark.parametrize(("spelling", "organ"), SPELT)
def test_spellings(spelling, organ):
    assert interpret(spelling).organ == organ


@pytest.mark.parametrize(
    "spelling",
    [
        *("Brainstem_PRV03", "Cord + 5mm", "SpinalCord_PRV", "Myelon PRV 5mm", "Larynx+3mm", "Eye PRV L"),
        *("BODY", "External", "Couch", "Skin", "PTV70", "ptv_56", "CTV N", "GTV-T", "50 Gy", "dose 45 Gy"),
        *("Parotid_L-PTV", "Parotid_L_sub", "z_Parotid_L", "Avoid_Larynx", "Brain-PTV", "Tumor Bed", "95%"),
    ],
)
def test_what_is_no_organ(spelling):
    assert interpret(spelling).taken_for == NO_ORGAN


@pytest.mark.parametrize("spelling", ["Parotid", "Parotids", "Ring2cm", "cord_05", "Heart", "", "???", "Parotid L R"])
def test_what_nobody_knows_is_unknown(spelling):
    assert interpret(spelling).taken_for == ""


@pytest.mark.parametrize(
    ("spelling", "suggestion"),
    [
        ("Parotide G", "Parotid_L"),
        ("Parotide D", "Parotid_R"),
        ("Brainste", "Brainstem"),
        ("Mandibulae", "Bone_Mandible"),
        ("Right Submandibul", "Glnd_Submand_R"),
        ("Spinal Cord old", "SpinalCord"),
        ("Sous-max D", "Glnd_Submand_R"),
        ("Sous-max G", "Glnd_Submand_L"),
        ("Sous-maxD", "Glnd_Submand_R"),
        ("Sous-maxil G", "Glnd_Submand_L"),
        ("Plexus brac D", "BrachialPlex_R"),
        ("PLEXUS BRAC G", "BrachialPlex_L"),
        ("Plexus G", "BrachialPlex_L"),
        ("Nerf opt D", "OpticNrv_R"),
        ("NO G", "OpticNrv_L"),
        ("Parotida I", "Parotid_L"),
        ("Parotide S", "Parotid_L"),
        ("Parótida E", "Parotid_L"),
        # A part, or another trunk, canal, jaw or plexus.
        ("Tronc", "Brainstem"),
        ("Tronco", "Brainstem"),
        ("Canal", "SpinalCanal"),
        ("Kaak", "Bone_Mandible"),
        ("Glottis", "Larynx"),
        ("Larynx SG", "Larynx"),
        ("Esophagus_S", "Esophagus"),
        ("Cervical Esophagus", "Esophagus"),
        ("Inner Ear L", "Cochlea_L"),
        ("Innenohr re", "Cochlea_R"),
    ],
)
def test_what_resembles_an_organ_waits_for_a_person(spelling, suggestion):
    reading = interpret(spelling)
    assert (reading.organ, reading.certainty, reading.suggestion) == (None, Certainty.LIKELY, suggestion)


@pytest.mark.parametrize(
    "spelling", ["Lung~_L", "Brainstem~", "~Larynx", "Parotid_L~", "Rt Parotid ~", "SpinalCord\u223c", "PAROTI~1"]
)
def test_what_is_partly_drawn_is_never_the_whole_organ(spelling):
    """TG-263 marks it with a tilde."""
    assert interpret(spelling) == Reading("", Certainty.PARTIAL)
    assert interpret(f"PTV {spelling}").taken_for == NO_ORGAN


def test_no_doubtful_spelling_is_an_alias():
    doubtful = tomllib.loads((etc_folder() / "naming.toml").read_text(encoding="utf-8"))["doubtful"]
    for organ, spellings in doubtful.items():
        for spelling in spellings:
            sided = f"{spelling} left" if catalogue()[organ].pair else spelling
            assert interpret(sided) == Reading("", Certainty.LIKELY, organ)


def test_every_spelling_of_the_catalogue_is_its_organ_s():
    for name, structure in catalogue().items():
        assert interpret(name).organ == name
        for alias in structure.aliases:
            if structure.pair is None:
                assert interpret(alias).organ == name
            else:
                assert interpret(f"{alias} left").organ == name
                assert interpret(f"Rt {alias}").organ == structure.pair


@pytest.mark.skipif(not TOOL.exists(), reason="the shared tool that writes archives is not beside this checkout")
def test_the_archive_tool_s_spellings():
    spec = importlib.util.spec_from_file_location("dicom_archive", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for spellings in tool.SPELLINGS.values():
        assert {interpret(spelling).organ for spelling in spellings} == {spellings[0]}


def test_a_review_file_is_obeyed_and_kept(tmp_path):
    path = tmp_path / "names.toml"
    counts = {"Lt Parotid": 3, "Parotide G": 2, "PTV70": 4, "Glub": 1}
    first = review(counts, path)
    assert mapping(first) == {"Lt Parotid": "Parotid_L"}
    written = {entry["spelling"]: entry for entry in tomllib.loads(path.read_text())["name"]}
    assert written["Parotide G"] == {
        "spelling": "Parotide G",
        "cases": 2,
        "taken_for": "",
        "sure": "likely",
        "suggestion": "Parotid_L",
    }
    edited = path.read_text().replace('taken_for = ""\nsure = "likely"', 'taken_for = "Parotid_L"\nsure = "likely"')
    path.write_text(edited.replace('taken_for = "Parotid_L"\nsure = "alias"', 'taken_for = "-"\nsure = "alias"'))
    second = review({"Parotide G": 2, "Lt Parotid": 3, "cord": 1}, path)
    assert mapping(second) == {"Parotide G": "Parotid_L", "cord": "SpinalCord"}
    assert second["Lt Parotid"].reading.certainty is Certainty.CONFIRMED
    assert mapping(review({"cord": 1}, path)) == {"Parotide G": "Parotid_L", "cord": "SpinalCord"}


def review_file(path, *entries: tuple[str, str, str]) -> None:
    names = (f'[[name]]\nspelling = "{a}"\ncases = 1\ntaken_for = "{b}"\nsure = "{c}"\n' for a, b, c in entries)
    path.write_text("\n".join(names))


def test_what_an_earlier_version_read_by_itself_is_no_person_s_word(tmp_path):
    """It took these for sure, for nothing, or for no organ; today it reads them otherwise."""
    review_file(
        tmp_path / "names.toml",
        *(("Tronc", "Brainstem", "alias"), ("Parotid_L~", "Parotid_L", "alias"), ("Glottis", "Larynx", "alias")),
        *(("Trachee", "", "none"), ("Plexus brac droit", "", "none"), ("Nerf opt D", "-", "no organ")),
    )
    counts = dict.fromkeys(("Tronc", "Parotid_L~", "Glottis", "Trachee", "Plexus brac droit", "Nerf opt D"), 1)
    spelt = review(counts, tmp_path / "names.toml")
    assert mapping(spelt) == {"Trachee": "Trachea", "Plexus brac droit": "BrachialPlex_R"}
    assert all(one.reading == interpret(name) for name, one in spelt.items())


def test_what_a_person_said_outlives_a_version(tmp_path):
    said = {
        "Tronc": "Brainstem",
        "Larynx~": "Larynx",
        "cord": "SpinalCanal",
        "Eye_L": "",
        "Mand": "-",
        "Canal": "Larynx",
    }
    before = {"Tronc": "likely", "Larynx~": "partly drawn", "cord": "alias", "Eye_L": "exact", "Canal": "alias"}
    review_file(tmp_path / "names.toml", *((name, taken, before.get(name, "alias")) for name, taken in said.items()))
    for _ in range(2):  # the second time they stand there as confirmed
        spelt = review(dict.fromkeys(said, 1), tmp_path / "names.toml")
        assert {name: one.reading.taken_for for name, one in spelt.items()} == said
        assert {one.reading.certainty for one in spelt.values()} == {Certainty.CONFIRMED}


def test_odd_spellings_survive_the_review_file(tmp_path):
    counts = {'Cord "5" \\ x': 1, "Rückenmark\t2": 1, "": 1}
    review(counts, tmp_path / "names.toml")
    assert review(counts, tmp_path / "names.toml").keys() == counts.keys()


def test_a_damaged_review_file(tmp_path):
    path = tmp_path / "names.toml"
    path.write_text("[[name]\n")
    with pytest.raises(DatasetError, match="is damaged"):
        review({}, path)
    path.write_text('[[name]]\nspelling = "x"\ntaken_for = "Kidney"\n')
    with pytest.raises(DatasetError, match="Kidney"):
        review({}, path)


@pytest.mark.parametrize(
    "spelling", ['a "quoted" name', "back\\slash", "emoji \N{BRAIN}", "DEL \x7f", "tab\tand\nline", "Größe"]
)
def test_any_spelling_survives_the_review_file(tmp_path, spelling):
    path = tmp_path / "names.toml"
    review({spelling: 1}, path)
    assert [entry["spelling"] for entry in tomllib.loads(path.read_text(encoding="utf-8"))["name"]] == [spelling]
    assert review({spelling: 1}, path).keys() == {spelling}
