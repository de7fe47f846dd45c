"""Writes docs/kohya.md: what becomes of each argument of Kohya's LoRA scripts and of each key of the kohya_ss GUI.

python tools/kohya_table.py
"""

from __future__ import annotations

from pathlib import Path

from engine.config.kohya.differences import DIFFERENCES, Difference
from engine.config.kohya.gui_keys import GUI_RULES
from engine.config.kohya.rules import NETWORK_ARGS, SCRIPT_ARGUMENTS, Rule, rule_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "kohya.md"
HEAD = """# Kohya's files

`lorasmith --preset FILE` takes a training TOML of Kohya's scripts, a configuration of the kohya_ss GUI (JSON), or a
shell, batch or PowerShell file that calls `train_network.py`, `sdxl_train_network.py` or `flux_train_network.py`, with
the training TOML behind its `--config_file`;
`lorasmith convert FILE` says what each of its keys does and writes it as a preset. `--dataset_config FILE` takes a
dataset configuration beside any of them. What a file does not say has the default of the scripts. In a file of the GUI
a key that is empty, off or 0 has that default too, as the GUI passes none of these on; only an absent key has the
default of the GUI.

A training TOML is known by its keys, as its tables may have any name. A name in it that is no argument has no effect,
as in the scripts, and the nearest argument is named; on a command line it is an error, where a name may be cut short as
long as it is the beginning of one argument only. Numbers written as text are understood; a value of another type is an
error with its line and key. Files for DreamBooth, full fine-tuning, textual inversion or another script are refused. An
argument that another script reads has no effect. Paths of Windows are refused on another system before a folder is
made; `--model`, `--images`, `--output_dir` and `--set` replace them.

The training TOML that the GUI writes beside each run (`config_lora-….toml`) is taken too.

A shell, batch or PowerShell file (`.sh`, `.bat`, `.cmd`, `.ps1`; UTF-8, or UTF-16 with a byte order mark) is read, and
nothing of it is run. Each of its statements is one of four:

- the call of the script, with whatever starts it before it: `accelerate launch`, `python`, `nohup`, `docker run …`;
- an assignment of a literal or of variables that are certain. They are put in where the call names them: `$X`,
  `${X}`, `"${ARGS[@]}"`, `%X%`, `!X!` after `setlocal enabledelayedexpansion`, `@args`, `"$x"`. `${X:-default}` takes
  its default where the file does not set X, and a note names the value. What `cat > cfg.toml <<EOF` writes is what
  `--config_file` reads;
- a command that cannot change the call, as `echo`, `cd`, `source venv/bin/activate`, `pip`, `git`; one that does work
  of its own has a line in the report. A test, loop or function without a call in it is one of these;
- anything else, which is an error with its line, so that nothing is left out silently: arguments on a line after one
  that ends without `\\` (`^`, `` ` ``); a call in a loop, test or function; a second call; another file that is
  sourced or called; in an argument a variable that depends on a condition, `$(…)`, `$1`, `%1`, `%X:~0,3%`, or a pattern
  of file names. Write the arguments as one command then, or give the TOML.

In a batch file a value has what `set` gives it: `set X="v"` keeps the quotation marks, `set X=v ` the blank.

This page is made by `python tools/kohya_table.py`. The classes: *honoured*; *better*, honoured with a better meaning;
*no effect* here, with the reason; *not supported*, an error that names the alternative.

## What is different on purpose

`--kohya-exact` (the setting `training.kohya_exact`, which a run keeps) computes as Kohya's scripts do where the last
column says yes. Where it says no, it says why. Give it with the file of Kohya's itself: a preset that `convert` has
written has settled already what a file leaves open.

| what | here | Kohya | `--kohya-exact` |
|---|---|---|---|
"""


def row(name: str, rule: Rule) -> str:
    target = f"`{rule.target}`" if rule.target else ""
    return f"| `{name}` | {rule.status} | {target} | {rule.text} |"


def difference_row(difference: Difference) -> str:
    switched = "yes" if difference.switched else f"no: {difference.why_not}"
    return f"| {difference.what} | {difference.ours} | {difference.kohyas} | {switched} |"


def page() -> str:
    lines = [HEAD + "\n".join(map(difference_row, DIFFERENCES)), ""]
    lines += ["## Arguments of the scripts", "", "| argument | class | becomes | remark |", "|---|---|---|---|"]
    for name in SCRIPT_ARGUMENTS:
        rule = rule_of(name)
        assert rule is not None, name
        lines.append(row(name, rule))
    lines += ["", "## Inside network_args", "", "| key | class | becomes | remark |", "|---|---|---|---|"]
    lines += [row(name, rule) for name, rule in NETWORK_ARGS.items()]
    lines += ["", "## Keys of the GUI that are no argument of the same name", ""]
    lines += ["| key | class | becomes | remark |", "|---|---|---|---|"]
    lines += [row(name, rule) for name, rule in sorted(GUI_RULES.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
