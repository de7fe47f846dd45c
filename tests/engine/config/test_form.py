"""What the form knows about the settings comes from the model; typed text becomes a value or one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import RunConfig, list_presets, load_config
from engine.config.form import check, fields, form, input_text, parse, unit, value_text
from engine.config.problems import keys
from engine.errors import UsageError


def test_every_setting_is_there_once_in_the_models_order() -> None:
    assert {table.name: [facts.name for facts in table.fields] for table in form()} == keys()
    assert len(fields()) == sum(len(names) for names in keys().values())


def test_facts_are_the_models() -> None:
    rate, dim, schedule = (
        fields()[key] for key in ("training.unet_lr", "network.network_dim", "training.lr_scheduler")
    )
    assert (rate.kind, rate.optional, rate.limits, rate.default) == ("number", True, "0 or more", None)
    assert (dim.kind, dim.limits, dim.vram, dim.unit) == ("integer", "from 1 to 1024", "more", "")
    assert schedule.kind == "choice" and "cosine" in schedule.choices and None not in schedule.choices
    assert fields()["model.v_parameterization"].choices == (None, True, False)
    assert fields()["dataset.caption_dropout_rate"].limits == "from 0 to 1"
    assert fields()["network.network_dropout"].limits == "from 0, below 1"
    assert fields()["training.multires_noise_discount"].limits == "more than 0, below 1"
    assert fields()["training.max_train_steps"].unit == "steps"
    assert fields()["network.module_dropout"].advanced and not dim.advanced
    assert all(facts.title for facts in fields().values())


@pytest.mark.parametrize("name", [None, *(preset.name for preset in list_presets())])
def test_what_the_form_shows_reads_back_as_the_same_value(name: str | None) -> None:
    config = load_config(name)
    for facts in fields().values():
        value = getattr(getattr(config, facts.table), facts.name)
        parsed = parse(
            facts, value_text(facts, value) if facts.kind in ("flag", "choice") else input_text(facts, value)
        )
        assert RunConfig().changed(**{facts.table: {facts.name: parsed}}) == RunConfig().changed(
            **{facts.table: {facts.name: value}}
        ), facts.key
        assert "\n" not in value_text(facts, value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("training.unet_lr", " 5e-5 ", 5e-5),
        ("training.unet_lr", "", None),
        ("training.unet_lr", "Unset", None),
        ("training.text_encoder_lr", "5e-5", 5e-5),
        ("training.text_encoder_lr", "1e-5, 2e-5", [1e-5, 2e-5]),
        ("training.text_encoder_lr", "[0, 2e-5]", [0, 2e-5]),
        ("training.text_encoder_lr", "", None),
        ("network.block_dims", "4,8", "4,8"),
        ("training.seed", "7", 7),
        ("dataset.resolution", "512", 512),
        ("dataset.resolution", "512 x 768", [512, 768]),
        ("dataset.class_tokens", "123", "123"),
        ("dataset.class_tokens", " ", None),
        ("training.lr_scheduler", "Linear", "linear"),
        ("model.zero_terminal_snr", "yes", True),
        ("model.max_token_length", "150", 150),
        ("sampling.sample_prompts", "a cat, sitting\n\na dog", ["a cat, sitting", "a dog"]),
        ("sampling.sample_prompts", "prompts.txt", "prompts.txt"),
        ("sampling.sample_prompts", "", []),
        ("training.optimizer_args", "weight_decay=0.01", ["weight_decay=0.01"]),
    ],
)
def test_typed_text_becomes_a_value(key: str, text: str, value: Any) -> None:
    assert parse(fields()[key], text) == value


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("training.unet_lr", "fast", '"fast" is not valid: enter a number, 0 or more.'),
        ("training.unet_lr", "abc", '"abc" is not valid: enter a number, 0 or more.'),
        ("training.unet_lr", "nan", '"nan" is not valid: enter a number, 0 or more.'),
        (
            "training.text_encoder_lr",
            "1e-5,fast",
            "[1e-05, 'fast'] is not valid: enter a number from 0 on, or up to 4, separated by commas.",
        ),
        (
            "training.text_encoder_lr",
            "1e-5,true",
            "[1e-05, True] is not valid: enter a number from 0 on, or up to 4, separated by commas.",
        ),
        ("training.seed", "true", '"True" is not valid: enter a whole number, from 0 to 4294967295.'),
        ("training.seed", "1.5", '"1.5" is not valid: enter a whole number, from 0 to 4294967295.'),
        ("network.network_dim", "0", '"0" is not valid: enter a whole number, from 1 to 1024.'),
        ("network.network_dim", "", "A number is needed here."),
        ("dataset.resolution", "12", "12 is not valid: enter a side between 64 and 4096 px, or [width, height]."),
        ("dataset.resolution", "big", '"big" is not valid: enter a side in px, or width and height: 512,768.'),
    ],
)
def test_what_cannot_be_is_one_sentence(key: str, text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(fields()[key], text)
    assert caught.value.message == sentence


def test_what_depends_on_other_settings_is_not_the_fields_own_problem() -> None:
    facts = fields()["training.adaptive_noise_scale"]
    check(facts, 0.1)
    with pytest.raises(ValueError, match="noise_offset"):
        RunConfig.model_validate({facts.table: {facts.name: 0.1}})


def test_units_follow_their_number() -> None:
    batches, side = fields()["training.gradient_accumulation_steps"], fields()["dataset.resolution"]
    assert [unit(batches, value) for value in (1, 2, None)] == ["batch", "batches", ""]
    assert [unit(side, value) for value in (1, 512)] == ["px", "px"]


def test_search_finds_words_of_title_key_and_help() -> None:
    matches = [key for key, facts in fields().items() if facts.fits("rate unet")]
    assert "training.unet_lr" in matches and "training.seed" not in matches


def best(search: str) -> str:
    ranked = {key: rank for key, facts in fields().items() if (rank := facts.rank(search)) is not None}
    return min(ranked, key=lambda key: ranked[key], default="")


@pytest.mark.parametrize("key", list(fields()))
def test_a_search_for_a_fields_own_title_or_key_finds_that_field_first(key: str) -> None:
    facts = fields()[key]
    spaced = facts.name.replace("_", " ")
    for search in (facts.title, facts.title.lower(), f"  {facts.title.upper()} ", key, facts.name, spaced):
        assert best(search) == key, search


@pytest.mark.parametrize(
    ("search", "key"),
    [
        ("steps", "training.max_train_steps"),
        ("step", "training.max_train_steps"),
        ("learning", "training.learning_rate"),
        ("learn", "training.learning_rate"),
        ("learning rate", "training.learning_rate"),
        ("rate", "training.learning_rate"),
        ("lr", "training.learning_rate"),
        ("unet lr", "training.unet_lr"),
        ("text encoder lr", "training.text_encoder_lr"),
        ("alpha", "network.network_alpha"),
        ("batch", "training.train_batch_size"),
        ("epoch", "training.max_train_epochs"),
        ("rank", "network.network_dim"),
        ("dim", "network.network_dim"),
        ("network dim", "network.network_dim"),
        ("scheduler", "training.lr_scheduler"),
        ("trigger", "dataset.class_tokens"),
        ("seed", "training.seed"),
        ("prompts", "sampling.sample_prompts"),
        ("precision", "memory.mixed_precision"),
        ("swap", "memory.blocks_to_swap"),
        ("8bit", "training.optimizer_type"),
        ("no such setting", ""),
        ("", ""),
        (" ", ""),
    ],
)
def test_a_search_finds_what_is_meant_first(search: str, key: str) -> None:
    assert best(search) == key


def test_changes_during_the_run_are_shown_as_words() -> None:
    facts = fields()["training.changes"]
    assert value_text(facts, ["200: training.unet_lr=5e-5"]) == "from step 201: U-Net learning rate 5e-5"
    assert value_text(facts, []) == "none"
    assert value_text(facts, ["soon: faster"]) == "soon: faster"


@pytest.mark.parametrize(
    "text", ['["200: training.unet_lr=5e-5"]', '"200: training.unet_lr=5e-5",', " 200: training.unet_lr=5e-5\n"]
)
def test_entries_are_also_read_as_a_file_writes_them(text: str) -> None:
    assert [line.strip() for line in parse(fields()["training.changes"], text)] == ["200: training.unet_lr=5e-5"]


def test_a_prompt_may_begin_with_a_bracket_or_be_in_quotes() -> None:
    prompts = fields()["sampling.sample_prompts"]
    assert parse(prompts, '["a", "b"]') == ["a", "b"]
    assert parse(prompts, '[a|b]\n"c"') == ["[a|b]", '"c"']


def test_unset_clears_a_text_too() -> None:
    assert parse(fields()["dataset.class_tokens"], "unset") is None
