"""A draft with which a training could begin at once: the model and the images that ship with the program."""

from engine.paths import ASSETS

READY = {
    "model.pretrained_model_name_or_path": str(ASSETS / "demo_base"),
    "dataset.train_data_dir": str(ASSETS / "demo_pictures"),
    "dataset.class_tokens": "smithy",
    "saving.output_name": "robot",
}
