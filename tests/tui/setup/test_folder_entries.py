"""What is entered about the folders: from the draft and back, whatever the draft was made from."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from engine.paths import ASSETS
from engine.runs.project import make
from tui.setup.draft import Draft
from tui.setup.folder_entries import Entries


@pytest.fixture
def entries(tmp_path: Path) -> Entries:
    """A project of one image."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "a.png")
    return Entries(place=str(tmp_path), name="anna", source=str(tmp_path / "photos"))


def kept(draft: Draft) -> Draft:
    """The draft as the next start finds it."""
    return Draft(**json.loads(json.dumps(asdict(draft))))


def test_a_new_draft_has_only_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Entries.from_draft(Draft()) == Entries(place=str(tmp_path))


def test_what_was_entered_comes_back(entries: Entries) -> None:
    full = replace(entries, trigger="4nn4", repeats="7", validation="12.5 %", regularize=True, class_word="person",
                   reg_source="/people", txt2img=True, take_in="link")  # fmt: skip
    draft = Draft()
    full.store(draft)
    assert Entries.from_draft(kept(draft)) == full
    assert draft.extras["folders.held_out"] == "12.5 %", "the key of earlier versions"
    assert draft.get("dataset.validation_split") == 0.125
    assert draft.get("dataset.class_tokens") == "4nn4"
    assert draft.get("dataset.reg_data_dir") == "/people"


def test_the_demo_model_brings_its_images() -> None:
    draft = Draft(values={"model.pretrained_model_name_or_path": str(ASSETS / "demo_base")})
    demo = Entries.from_draft(draft)
    assert (demo.name, demo.word, demo.take_in) == ("demo", "smithy", "leave")
    assert demo.source == str(ASSETS / "demo_pictures")
    own = Draft(preset="demo", values={"dataset.train_data_dir": "/mine"})
    assert (Entries.from_draft(own).source, Entries.from_draft(own).trigger) == ("/mine", "")
    chosen_later = Draft(preset="demo", extras={"folders.source": "/mine", "folders.name": "anna"})
    assert Entries.from_draft(chosen_later).word == "anna"
    assert Entries.from_draft(Draft(preset="demo", values={"dataset.class_tokens": "annk7"})).word == "annk7"


def test_own_images_leave_what_came_with_the_demos() -> None:
    demo = Entries(place="/p").with_demo()
    assert replace(demo, repeats="8").without_demo() == Entries(place="/p", source=demo.source)
    typed = Entries(place="/p", name="anna", trigger="annk7", validation="10 %")
    assert typed.without_demo() == typed


def test_the_settings_of_another_run(tmp_path: Path) -> None:
    values = {
        "saving.output_name": "anna",
        "saving.output_dir": str(tmp_path / "anna" / "results_current"),
        "dataset.train_data_dir": str(tmp_path / "anna" / "training_images"),
        "dataset.class_tokens": "4nn4",
        "dataset.validation_split": 0.1,
    }
    draft = Draft(values=dict(values))
    entries = Entries.from_draft(draft)
    assert (entries.place, entries.take_in, entries.trigger, entries.validation) == (
        str(tmp_path),
        "leave",
        "4nn4",
        "10 %",
    )
    assert list(entries.problems()) == []
    entries.store(draft)
    assert draft.values == values


def test_the_trigger_is_only_set_where_it_is_not_the_name(entries: Entries) -> None:
    draft = Draft()
    replace(entries, trigger="anna").store(draft)
    assert "dataset.class_tokens" not in draft.values
    demo = Draft(preset="demo")
    replace(entries, name="smithy").store(demo)
    assert "dataset.class_tokens" not in demo.values, "the preset says it"
    entries.store(demo)
    assert demo.config().trigger == "anna"


def test_until_taken_in_the_source_is_meant(entries: Entries) -> None:
    draft = Draft()
    entries.store(draft)
    assert draft.get("dataset.train_data_dir") == entries.source
    made = make(entries.project())
    entries.record(draft, made)
    assert draft.get("dataset.train_data_dir") == made.values["dataset.train_data_dir"]
    second = Entries.from_draft(kept(draft))
    second.store(draft)
    assert draft.get("dataset.train_data_dir") == made.values["dataset.train_data_dir"]
    assert second.earlier(draft) == entries.project().path
    other = replace(second, source="/elsewhere")
    other.store(draft)
    assert draft.get("dataset.train_data_dir") == "/elsewhere"
    assert other.earlier(draft) is None


def test_regularization_that_was_linked_stays(entries: Entries, tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "people" / "b.png")
    linked = replace(
        entries, take_in="leave", regularize=True, class_word="person", reg_source=str(tmp_path / "people")
    )
    draft = Draft()
    linked.record(draft, make(linked.project()))
    linked.store(draft)
    assert draft.get("dataset.reg_data_dir") == str(tmp_path / "anna" / "regularization_images")


@pytest.mark.parametrize(("text", "number"), [("", None), ("0", None), ("12", 12), ("100001", None), ("²", None)])
def test_repeats(entries: Entries, text: str, number: int | None) -> None:
    assert replace(entries, repeats=text).num_repeats == number
