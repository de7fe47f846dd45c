"""`lorasmith export RUN|PRESET --kohya DIR`: the same training as files that Kohya's scripts run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.exit_codes import ExitCode
from engine.runs.layout import expanded
from engine.text import printable
from tui import output

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.models.base import Recognition


@click.command("export", short_help="Write a run or preset as files for Kohya's scripts.")
@click.argument("what", metavar="RUN|PRESET")
@click.option("--kohya", "target", metavar="DIR", required=True, help="The folder that the files go into.")
@click.option("--images", metavar="DIR", help="The folder of pictures, for a preset.")
@click.option("--model", metavar="PATH", help="The checkpoint, for a preset.")
@click.option("--name", metavar="NAME", help="For a preset: names the output; also the trigger word where it has none.")
def command(what: str, target: str, **typed: str | None) -> int:
    """Write dataset.toml, training.toml, train.sh and train.py for Kohya's scripts.

    RUN is a path or part of a name; PRESET a preset's name or file.
    """
    from engine.atomic import write_text
    from engine.config.kohya.export import ExportedSubset, kohya_export
    from engine.config.optimizers import check_training
    from engine.config.prompts import read_prompts
    from engine.dataset.scan import scan
    from engine.errors import UsageError
    from engine.models.registry import family_named, recognise

    config = _configuration(what, typed)
    known = recognise(config.model.pretrained_model_name_or_path)
    family = family_named(known.family)
    config, settled = family.settle(config, known)
    config = stated(config, known)
    check_training(config.training)
    subsets = [
        ExportedSubset(str(subset.path), subset.num_repeats, subset.class_tokens, subset.is_reg)
        for subset in scan(config).subsets
        if not subset.is_validation
    ]
    flags, sampler = family.prompt_flags, config.sampling.sample_sampler
    prompts = [prompt.as_line(flags, sampler) for prompt in read_prompts(config, output.narrate, flags)]
    folder = expanded(target)
    exported = kohya_export(config, family.name, subsets, prompts)
    files = exported.files
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{printable(folder)} is a file.", "Name a folder that is new or empty.")
    taken = [name for name in files if (folder / name).exists()]
    if taken:
        raise UsageError(f"{printable(folder)} has {', '.join(taken)} already.", "Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_text(folder / name, text)
        output.result(folder / name)
    (folder / "train.sh").chmod(0o755)
    for note in [*settled, *exported.notes]:
        output.narrate(note)
    return ExitCode.DONE


def stated(config: RunConfig, known: Recognition) -> RunConfig:
    """The configuration with what is read from the checkpoint here, and has to be said to Kohya's scripts."""
    found = {
        "v_parameterization": known.prediction_type == "v_prediction",
        "zero_terminal_snr": known.zero_terminal_snr,
    }
    return config.changed(
        model={key: True for key, value in found.items() if value and getattr(config.model, key) is None}
    )


def _configuration(what: str, typed: dict[str, str | None]) -> RunConfig:
    from engine.config import find_preset, load_config, require_paths
    from engine.errors import UsageError
    from engine.runs import resolve
    from engine.runs.prepare import absolute_paths
    from tui.configuration import OPTIONS, read

    try:
        find_preset(what)
    except UsageError:
        try:
            run = resolve(what)
        except UsageError as error:
            hint = f"{error.hint} Presets: `lorasmith presets`.".strip()
            raise UsageError(f"{error.message} No preset is called so either.", hint) from None
        options = {OPTIONS[key][1]: (OPTIONS[key][0], value) for key, value in typed.items() if value is not None}
        config = run.with_own_datasets(load_config(run.config_path, (), options))
        require_paths(config)
        return absolute_paths(config)
    return absolute_paths(read(what, (), **typed))
