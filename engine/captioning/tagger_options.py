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
        "A folder with model.onnx and selected_tags.csv, or the hub id of a downloaded tagger.",
        min_length=1,
    )
    general_threshold: Share = setting(0.35, "Tag threshold", "Lowest probability of a general tag.")
    character_threshold: Share = setting(0.35, "Character threshold", "Lowest probability of a character's name.")
    undesired_tags: str = setting("", "Excluded tags", "Tags that are never written, separated by commas.")
    character_tags_first: bool = setting(True, "Characters first", "Names of characters before all other tags.")
    remove_underscore: bool = setting(True, "Spaces", "red_hair becomes red hair; emoticons like ^_^ stay.")
    use_rating_tags: bool = setting(False, "Rating", "Put general, sensitive, … first.", advanced=True)
