"""Sample prompts in Kohya's syntax and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.config.prompts import Prompt, read_prompts
from tests.refusals import refused

LINE = "a cat --n blurry, dark --w 640 --h 384 --d 7 --s 12 --l 5.5 --ss euler_a"


def read(prompts: object, logged: list[str] | None = None) -> list[Prompt]:
    config = RunConfig().changed(
        sampling={"sample_prompts": prompts}, saving={"output_name": "zed"}, dataset={"resolution": [512, 768]}
    )
    return read_prompts(config, (logged if logged is not None else []).append)


def test_a_line_with_every_flag() -> None:
    (prompt,) = read([LINE])
    request = prompt.request
    assert (request.prompt, request.negative_prompt) == ("a cat", "blurry, dark")
    assert (request.width, request.height, request.seed, request.steps, request.scale) == (640, 384, 7, 12, 5.5)
    assert request.sampler == "euler_a"
    assert prompt.seeded


def test_defaults_follow_the_training_resolution_and_the_trigger() -> None:
    (prompt,) = read(["photo of {trigger}"])
    assert prompt.request.prompt == "photo of zed"
    assert (prompt.request.width, prompt.request.height) == (512, 768)
    assert not prompt.seeded


def test_a_prompt_may_begin_like_a_flag_and_hold_dashes() -> None:
    prompts = read(["s 1girl --s 4", "well--made -- or --> not", "a --- b --16:9"])
    assert (prompts[0].request.prompt, prompts[0].request.steps) == ("s 1girl", 4)
    assert prompts[1].request.prompt == "well--made -- or --> not"
    assert prompts[2].request.prompt == "a --- b --16:9"


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("a cat --x unknown", "--x unknown has no effect: there is no such flag. Flags: --n (negative_prompt), --w"),
        ("a cat --ar 16:9", "--ar 16:9 has no effect"),
        ("a cat --w512", "--w512 has no effect"),
        ("a cat --neg bad", "--neg bad has no effect"),
        ("a cat --v", "--v has no effect: there is no such flag"),
        ("a cat --n", "--n has no effect: it has no value"),
        ("a cat --n ", "--n has no effect: it has no value"),
    ],
)
def test_a_flag_that_does_nothing_is_reported_and_is_no_prompt(line: str, reported: str) -> None:
    notes: list[str] = []
    (prompt,) = read([line], notes)
    assert (prompt.request.prompt, prompt.request.negative_prompt) == ("a cat", "")
    assert len(notes) == 1 and reported in notes[0] and line.strip() in notes[0]


@pytest.mark.parametrize("kind", ["json", "toml"])
def test_a_key_that_does_nothing_is_reported(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"p.{kind}"
    if kind == "json":
        path.write_text('[{"prompt": "a", "widht": 640, "flow_shift": 3, "guidance_scale": 2, "sample_step": 9}]')
    else:
        path.write_text(
            'title = "x"\n[prompt]\nwidht = 640\nflow_shift = 3\n[[prompt.subset]]\nprompt = "a"\n'
            "guidance_scale = 2\nsample_step = 9\n"
        )
    notes: list[str] = []
    (prompt,) = read(str(path), notes)
    assert (prompt.request.width, prompt.request.steps) == (512, 28)
    if kind == "toml":
        assert notes.pop(0).endswith("title has no effect; what counts is [prompt] and [[prompt.subset]].")
    assert notes == [
        "Sample prompt 'a': widht has no effect: there is no such key. Did you mean width?",
        "Sample prompt 'a': flow_shift has no effect for this family.",
        "Sample prompt 'a': guidance_scale has no effect for this family.",
        "Sample prompt 'a': sample_step has no effect: there is no such key. Did you mean sample_steps?",
    ]


def test_flags_of_other_families_are_reported() -> None:
    logged: list[str] = []
    read(["a --g 3.5"], logged)
    assert "--g (guidance_scale) has no effect" in logged[0]


def test_text_toml_and_json_files_agree(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(f"# a comment\n\n{LINE}\n")
    table = '[prompt]\nnegative_prompt = "blurry, dark"\nwidth = 640\nheight = 384\nseed = 7\n'
    table += "sample_steps = 12\nscale = 5.5\n"
    (tmp_path / "p.toml").write_text(table + '[[prompt.subset]]\nprompt = "a cat"\nsample_sampler = "euler_a"\n')
    (tmp_path / "p.json").write_text(json.dumps([LINE]))
    prompts = [read(str(tmp_path / name)) for name in ("p.txt", "p.toml", "p.json")]
    assert prompts[0] == prompts[1] == prompts[2] == read(LINE)


@pytest.mark.parametrize(
    ("name", "text", "code", "part"),
    [
        ("p.txt", None, "prompt-file-unreadable", "p.txt"),
        ("p.json", "{}", "prompt-file-without-prompts", "p.json"),
        ("p.json", "[1]", "prompt-not-possible", ": 1."),
        ("p.toml", "[prompt]\nwidth = 1\n", "prompt-file-without-prompts", "'subset'"),
        ("p.toml", "[prompt\n", "prompt-file-malformed", "p.toml"),
        ("p.toml", 'prompt = "a"\n', "prompt-file-without-prompts", "p.toml"),
        ("p.toml", "[prompt]\nsubset = 3\n", "prompt-file-without-prompts", "p.toml"),
        ("p.toml", '[prompt]\nsubset = ["a"]\n', "prompt-file-without-prompts", "p.toml"),
        ("p.txt", "a --w wide\n", "prompt-value-not-a-number", "--w 'wide'"),
        ("p.txt", "a --ss quick\n", "no-such-sampler", "'quick'"),
        ("p.txt", "a --w 99999999 --h 64\n", "prompt-value-too-large", "8192"),
        ("p.txt", "a --d 99999999999999999999\n", "prompt-value-too-large", "9223372036854775807"),
        ("p.json", '[{"prompt": "a", "width": "big"}]', "prompt-value-not-possible", "'big'"),
        ("p.txt", "a --d 18446744073709551616", "prompt-value-too-large", "9223372036854775807"),
        ("p.txt", "a --l nan", "prompt-value-not-possible", "--l nan"),
        ("p.json", '[{"prompt": "a", "seed": 1e999}]', "prompt-file-malformed", "p.json"),
    ],
)
def test_bad_prompt_files_are_refused_before_the_start(
    name: str, text: str | None, code: str, part: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with refused(code, part):
        read(str(tmp_path / name))


def test_missing_prompts_are_reported() -> None:
    logged: list[str] = []
    assert read([], logged) == []
    assert "no samples" in logged[0]


def test_the_size_of_a_dataset_configuration(tmp_path: Path) -> None:
    """The largest that is trained counts, not that of the run, which such a file is not trained at."""
    file = tmp_path / "dataset.toml"
    file.write_text(
        "[[datasets]]\nresolution = 768\n[[datasets.subsets]]\nimage_dir = 'a'\n"
        "[[datasets]]\nresolution = [1024, 832]\n[[datasets.subsets]]\nimage_dir = 'b'\n"
        "[[datasets]]\nresolution = 1536\n[[datasets.subsets]]\nimage_dir = 'c'\nis_reg = true\n"
    )
    config = RunConfig().changed(dataset={"resolution": 512, "dataset_config": str(file)})
    config = config.changed(sampling={"sample_prompts": ["a", "b --w 640"]})
    first, second = read_prompts(config, [].append)
    assert (first.request.width, first.request.height) == (1024, 832)
    assert (second.request.width, second.request.height) == (640, 832)
    file.unlink()
    assert read_prompts(config, [].append)[0].request.width == 512
