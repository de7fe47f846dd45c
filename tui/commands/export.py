"""`lorasmith export RUN|PRESET --kohya DIR`: the same training as files that Kohya's scripts run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.exit_codes import ExitCode
from engine.paths import expanded
from engine.text import printable
from tui.shell import output

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.types import Recognition


@click.command("export", short_help="Write a run or preset as files for Kohya's scripts.")
@click.argument("what", metavar="RUN|PRESET")
@click.option("--kohya", "target", metavar="DIR", required=True, help="The folder that the files go into.")
@click.option("--images", metavar="DIR", help="The folder of images, for a preset.")
@click.option("--model", metavar="PATH", help="The checkpoint, for a preset.")
@click.option(
    "--name", metavar="NAME", help="For a preset: the name of the output; also the trigger word where it has none."
)
def command(what: str, target: str, **typed: str | None) -> int:
    """Write dataset.toml, training.toml, train.sh and train.py for Kohya's scripts.

    RUN is a path or part of a name; PRESET a preset's name or file.
    """
    from engine.atomic import write_text
    from engine.config.kohya.export import kohya_export
    from engine.config.kohya.export_dataset import ExportedSubset
    from engine.config.optimizers import check_training
    from engine.dataset.scan import scan
    from engine.errors import UsageError
    from engine.families.registry import recognise
    from engine.families.resolved import resolve_run

    written = _configuration(what, typed)
    recognition = recognise(written.model.pretrained_model_name_or_path)
    run = resolve_run(with_checkpoint_settings(written, recognition), recognition)
    config = run.config
    check_training(config.training)
    subsets = [
        ExportedSubset(str(subset.path), subset.num_repeats, subset.class_tokens, subset.is_reg, config.dataset.in_json)
        for subset in scan(config).subsets
        if not subset.is_validation
    ]
    flags, sampler = run.family.spec.prompt_flags, config.sampling.sample_sampler
    prompts = [prompt.as_line(flags, sampler) for prompt in run.prompts(output.message)]
    folder = expanded(target)
    trainer = run.family.spec.kohya
    if trainer is None:
        raise UsageError(
            f"Kohya's scripts cannot train {run.family.spec.title}.",
            "Train it here: lorasmith --preset.",
            code="export-not-possible",
        )
    exported = kohya_export(config, trainer, subsets, prompts, run.rule_notes)
    files = exported.files
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"{printable(folder)} is a file.", "Name a folder that is new or empty.", code="output-not-a-folder"
        )
    existing = [name for name in files if (folder / name).exists()]
    if existing:
        raise UsageError(
            f"{printable(folder)} has {', '.join(existing)} already.", "Name another folder.", code="output-exists"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_text(folder / name, text)
        output.result(folder / name)
    (folder / "train.sh").chmod(0o755)
    for note in [*run.family_notes, *exported.notes]:
        output.message(note)
    return ExitCode.DONE


def with_checkpoint_settings(config: RunConfig, recognition: Recognition) -> RunConfig:
    """The configuration with what is read from the checkpoint here, but must be set for Kohya's scripts."""
    facts = {
        "v_parameterization": recognition.prediction_type == "v_prediction",
        "zero_terminal_snr": recognition.zero_terminal_snr,
    }
    return config.changed(
        model={key: True for key, value in facts.items() if value and getattr(config.model, key) is None}
    )


def _configuration(what: str, typed: dict[str, str | None]) -> RunConfig:
    from engine.config import find_preset, load_config, require_paths
    from engine.errors import UsageError
    from engine.runs import resolve
    from engine.runs.prepare import absolute_paths
    from tui.setup.configuration import OPTIONS, read

    try:
        find_preset(what)
    except UsageError:
        try:
            run = resolve(what)
        except UsageError as error:
            hint = f"{error.hint} Presets: `lorasmith presets`.".strip()
            raise UsageError(
                f"{error.message} There is no preset of that name either.", hint, code=error.code
            ) from None
        options = {OPTIONS[key][1]: (OPTIONS[key][0], value) for key, value in typed.items() if value is not None}
        config = run.with_own_datasets(load_config(run.config_path, (), options))
        require_paths(config)
        return absolute_paths(config)
    return absolute_paths(read(what, (), **typed))
