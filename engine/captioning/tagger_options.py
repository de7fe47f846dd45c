"""The options of WD14-style taggers: Kohya's names and thresholds."""

from __future__ import annotations

from engine.captioning.model_options import ModelOptions
from engine.config.fields import setting
from engine.config.values import Share


class TaggerOptions(ModelOptions):
    """A tagger as ONNX graph with its selected_tags.csv."""

    model: str = setting(
        "SmilingWolf/wd-swinv2-tagger-v3",
        "Model",
        "A folder with model.onnx and selected_tags.csv, or the hub id of a tagger that was downloaded before.",
        min_length=1,
    )
    general_threshold: Share = setting(0.35, "Tags from", "A general tag is taken from this probability on.")
    character_threshold: Share = setting(0.35, "Characters from", "A character's name is taken from here on.")
    undesired_tags: str = setting("", "Without", "Tags that are never written, with commas between them.")
    character_tags_first: bool = setting(True, "Characters first", "Names of characters before all other tags.")
    remove_underscore: bool = setting(True, "Spaces", "red_hair becomes red hair; ^_^ and the like stay.")
    use_rating_tags: bool = setting(False, "Rating", "Put general, sensitive, … first.", advanced=True)
