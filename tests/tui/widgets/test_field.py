"""The state of the form without a screen, and how rows and texts are cut and explained."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

from engine.config.form import fields
from tui.setup.draft import Draft, forget_presets
from tui.text.fields import cut, explain, hint, vram_text
from tui.widgets.form import Form


@pytest.fixture
def form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Form:
    """The first preset's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    forget_presets()
    return Form(Draft())


def keys(form: Form) -> list[str]:
    return [row.key for row in form.rows() if row.kind == "field"]


def test_advanced_fields_show_when_asked_for_changed_or_searched(form: Form) -> None:
    assert "training.huber_c" not in keys(form) and "training.unet_lr" in keys(form)
    form.enter("training.huber_c", "0.2")
    assert "training.huber_c" in keys(form)
    form.reset("training.huber_c")
    form.search = "huber"
    assert keys(form) == [
        "training.loss_type", "training.huber_schedule", "training.huber_c", "training.huber_scale"
    ]  # fmt: skip
    form.search, form.advanced = "", True
    assert keys(form) == [key for key in fields() if not key.startswith(("flux.", "flow."))]
    form.draft.preset = "my-own"
    assert keys(form) == list(fields()), "a preset whose name does not show the family hides nothing"


def test_every_table_has_its_title_once(form: Form) -> None:
    form.advanced = True
    titles = [row.text for row in form.rows() if row.kind == "table"]
    assert titles == [
        "Model",
        "Images",
        "Network",
        "Training",
        "Memory",
        "Samples",
        "Saving",
        "Loggers",
    ]


def test_a_wrong_text_is_kept_with_its_sentence_and_does_not_reach_the_draft(form: Form) -> None:
    form.enter("training.unet_lr", "fast")
    assert form.text("training.unet_lr") == form.typed("training.unet_lr") == "fast"
    assert form.wrong == {"training.unet_lr": '"fast" is not valid: enter a number, 0 or more.'}
    assert form.draft.values == {} and form.changed() == ["training.unet_lr"]
    form.store()
    second = Form(form.draft)
    assert second.typed("training.unet_lr") == "fast" and second.wrong == form.wrong
    second.enter("training.unet_lr", "5e-5")
    assert second.wrong == {} and second.draft.values == {"training.unet_lr": 5e-5}


def test_settings_that_contradict_each_other_are_shown_at_one_of_them(form: Form) -> None:
    form.enter("training.lr_scheduler", "constant")
    assert list(form.wrong) == ["training.lr_scheduler"] and "no warm-up" in form.wrong["training.lr_scheduler"]
    form.enter("training.lr_warmup_steps", "0")
    assert form.wrong == {}


def test_trying_out_returns_whether_the_sentence_changed(form: Form) -> None:
    assert form.try_out("training.seed", "x") and not form.try_out("training.seed", "x")
    assert form.try_out("training.seed", "1") and form.wrong == {} and form.draft.values == {}


def test_choices_turn_both_ways_and_round(form: Form) -> None:
    assert form.turn("memory.gradient_checkpointing", 1) and form.draft.get("memory.gradient_checkpointing") is True
    assert form.turn("memory.gradient_checkpointing", 1) and form.draft.values == {}
    assert form.turn("model.max_token_length", -1) and form.draft.get("model.max_token_length") == 225
    assert not form.turn("training.seed", 1)


def test_back_to_the_presets_value(form: Form) -> None:
    form.enter("network.network_dim", "8")
    form.reset("network.network_dim")
    assert form.draft.values == {} and form.text("network.network_dim") == form.preset_text("network.network_dim")


def test_a_value_has_its_unit(form: Form) -> None:
    assert form.text("training.max_train_steps") == "1800 steps" and form.text("model.clip_skip") == "1 layer"
    assert form.text("training.max_train_epochs") == "unset"


@pytest.mark.parametrize(("text", "width", "end", "result"), [
    ("abc", 6, False, "abc   "), ("abcdef", 6, False, "abcd… "), ("abcdef", 6, True, "…cdef "),
    ("火火火", 6, False, "火火… "),
])  # fmt: skip
def test_texts_are_cut_to_cells(text: str, width: int, end: bool, result: str) -> None:
    assert cut(text, width, keep_end=end) == result and cell_len(result) == width


def test_what_a_field_shows_about_itself(form: Form) -> None:
    dim = explain(form, "network.network_dim")
    for part in (
        "## Rank",
        "`network.network_dim`",
        "from 1 to 1024",
        "Preset: `32`",
        "Default: `16`",
        "when raised: more",
    ):
        assert part in dim
    assert "`cosine`" in explain(form, "training.lr_scheduler")
    assert vram_text(fields()["memory.gradient_checkpointing"]) == "VRAM when switched on: much less."
    assert vram_text(fields()["sampling.sample_every_n_steps"]) == "VRAM: a peak at each sample."
    assert vram_text(fields()["training.seed"]) == ""
    assert hint(fields()["saving.output_name"]) == "step Folders"


def test_a_rate_that_does_not_count_is_marked(form: Form) -> None:
    assert form.text("training.learning_rate").endswith("(not used)")
    form.draft.set("training.unet_lr", None)
    assert not form.text("training.learning_rate").endswith("(not used)")
