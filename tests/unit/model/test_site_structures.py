"""A site's own organs: what may be added to the catalogue, and what contradicts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from contourd.contour.contouring import ORDER, ContouringOptions
from contourd.contour.provenance import read_order, written_order
from contourd.errors import SettingsError
from contourd.model.site_structures import extended_catalogue, site_colours
from contourd.model.spellings import interpret, vocabulary_of
from contourd.model.structures import catalogue, catalogue_pairs, colour_of
from contourd.profiles import STRICT
from contourd.settings import load_settings
from tests.interop.node import write_configuration
from trainer.training.config import check_recipe, load_recipe

PLEXUS = """
[Rib03_L]
colour = [200, 100, 50]
pair = "Rib03_R"
aliases = ["Dritte Rippe", "Costa tertia"]

[Rib03_R]
colour = [50, 100, 200]
pair = "Rib03_L"

[Tongue_Base]
colour = [10, 20, 30]
aliases = ["Zungengrund"]

[Parotid_L]
aliases = ["Ohrdruese"]
"""


@pytest.fixture
def plexus(tmp_path: Path) -> Path:
    path = tmp_path / "structures.toml"
    path.write_text(PLEXUS, encoding="utf-8")
    return path


def test_what_a_site_adds(plexus: Path) -> None:
    known = extended_catalogue(plexus)
    assert set(known) == {*catalogue(), "Rib03_L", "Rib03_R", "Tongue_Base"}
    assert catalogue_pairs(("Rib03_R", "Larynx", "Rib03_L"), known) == (("Rib03_L", "Rib03_R"),)
    assert colour_of("Tongue_Base", known) == (10 / 255, 20 / 255, 30 / 255)
    assert colour_of("Tongue_Base") == (1, 1, 1)
    assert extended_catalogue(None) is catalogue()
    assert site_colours(plexus)["Rib03_R"] == (50, 100, 200)
    assert "Parotid_L" not in site_colours(plexus)


@pytest.mark.parametrize(
    ("spelling", "organ"),
    [
        ("dritte Rippe li", "Rib03_L"),
        ("COSTA_TERTIA_RE", "Rib03_R"),
        ("zungengrund", "Tongue_Base"),
        ("Ohrdruese rechts", "Parotid_R"),
        ("Parotis re", "Parotid_R"),
    ],
)
def test_the_names_of_an_archive_are_read_with_it(plexus: Path, spelling: str, organ: str) -> None:
    assert interpret(spelling, vocabulary_of(extended_catalogue(plexus))).organ == organ


WRONG = {
    "another colour": ("[Larynx]\ncolour = [1, 2, 3]\n", "Larynx: contourd knows it with another colour or pair"),
    "another pair": ('[Parotid_L]\npair = "Eye_R"\n', "Parotid_L: contourd knows it with another colour or pair"),
    "another case": ("[larynx]\ncolour = [1, 2, 3]\n", "larynx: contourd knows it as Larynx"),
    "no colour": ("[Tongue]\n", "Tongue: needs a colour"),
    "an alias of another": ('[Tongue]\ncolour = [1, 2, 3]\naliases = ["kehl-kopf"]\n', "'kehl-kopf' stands for Larynx"),
    "a name as alias": ('[Tongue]\ncolour = [1, 2, 3]\naliases = ["Brain stem"]\n', "stands for Brainstem already"),
    "two of the file": (
        '[Tongue]\ncolour = [1, 2, 3]\naliases = ["Z"]\n[Teeth]\ncolour = [1, 2, 4]\naliases = ["z."]\n',
        "Teeth: 'z.' stands for Tongue already",
    ),
    "a pair that is not there": (
        '[Rib_L]\ncolour = [1, 2, 3]\npair = "Rib_R"\n',
        "its pair Rib_R must stand in the file",
    ),
    "a pair of one side": (
        '[Rib_L]\ncolour = [1, 2, 3]\npair = "Hip_L"\n[Hip_L]\ncolour = [1, 2, 3]\npair = "Rib_L"\n',
        "Hip_L is not the same organ on the other side",
    ),
    "no name": ('["a b"]\ncolour = [1, 2, 3]\n', "'a b' is no name of an ROI"),
    "no colour of a screen": ("[Tongue]\ncolour = [1, 2, 300]\n", "Tongue.colour.2"),
    "an unknown key": ("[Tongue]\ncolour = [1, 2, 3]\ncolor = 1\n", "Tongue.color"),
    "no TOML": ("[Tongue\n", "not valid TOML"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_contradicts_the_catalogue_is_refused_in_words(tmp_path: Path, name: str) -> None:
    content, reason = WRONG[name]
    path = tmp_path / "structures.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        extended_catalogue(path)
    assert reason in str(caught.value)
    top = f'[structures]\nfile = "{path}"\n'
    with pytest.raises(SettingsError, match=r"structures\.file: ") as told:
        load_settings(write_configuration(tmp_path, 11112, "hn7", {"pacs": ("PACS", 104)}, top))
    assert reason in str(told.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read: No such file"):
        extended_catalogue(tmp_path / "none.toml")


def test_its_colours_are_part_of_what_decides_the_bytes(plexus: Path) -> None:
    """Without any the hash is that of earlier versions, so that their jobs give the same structure sets."""
    order = ContouringOptions(colours=site_colours(plexus))
    assert order.settings_hash(STRICT) != ORDER.settings_hash(STRICT)
    assert read_order(written_order(order)).settings_hash(STRICT) == order.settings_hash(STRICT)
    assert "colours" not in written_order(ORDER)


RECIPE = {"name": "x", "preprocess": {}, "model": {"structures": ["Rib03_L", "Larynx", "Rib03_R"]}}


def test_a_recipe_that_would_put_left_onto_right_is_refused(plexus: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"Rib03_L, Rib03_R are in no pair, and a mirror image would"):
        check_recipe(RECIPE, "here")
    alone = {**RECIPE, "model": {"structures": ["Parotid_L", "Larynx"]}}
    with pytest.raises(SettingsError, match="Parotid_L is in no pair"):
        check_recipe(alone, "here")
    assert check_recipe({**alone, "augment": {"mirror": 0}}, "here").known_pairs == ()
    pairs = (("Rib03_L", "Rib03_R"),)
    assert check_recipe({**RECIPE, "pairs": pairs}, "here").known_pairs == pairs
    path = tmp_path / "recipe.toml"
    path.write_text('name = "x"\n[model]\nstructures = ["Rib03_L", "Larynx", "Rib03_R"]\n')
    assert load_recipe(path, extended_catalogue(plexus)).known_pairs == pairs
    with pytest.raises(SettingsError, match="is to be the left one"):
        check_recipe({**RECIPE, "pairs": [pairs[0][::-1]]}, "here")
