"""Random scripts: either exactly the arguments of the call, or a problem with its line; and bash itself agrees."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.config.kohya.command_line import convert_command_line, is_command_line, script_of
from engine.config.kohya.scripts.script import REST

VALUES = st.text("ab1=.,/-_ é'", min_size=1, max_size=8).filter(lambda text: text.strip("-") == text)
NAMES = st.sampled_from(["--network_dim", "--learning_rate", "--output_name", "--flip_aug"])
ARGUMENTS = st.lists(st.one_of(NAMES, st.builds("{}={}".format, NAMES, VALUES), VALUES), min_size=1, max_size=6)
INERT = {
    ".sh": [
        "echo it\\'s", "cd x", "# note", "set -e", "source venv/bin/activate", "", "export A=1",
        "if [ x ]; then exit; fi", "git pull", "cat <<E\n--x\nE", "B=(1 2)", "for i in 1 2; do echo; done",
        "mkdir -p a && cd a", "pip list | tail",
    ],
    ".bat": [
        "@echo off", "cd x", "rem note's", ":: x", "", "set A=1", "if exist x (\n echo y\n)",
        "call venv\\Scripts\\activate", "chcp 65001 > nul", "title x", "git pull", "for %%i in (1 2) do echo %%i",
        "setlocal",
    ],
    ".ps1": [
        "Write-Host hi", "cd x", "# it's", "<# a\nb #>", "", "$A = 1", "if ($x) { exit }",
        ".\\venv\\Scripts\\activate", "$env:X = 'y'", "git pull", "foreach ($i in 1, 2) { echo $i }",
        "$B = @('a',\n 'b')",
    ],
}  # fmt: skip
SIGNS = [
    "python", "train_network.py", "--x", '"', "'", "\\", "\n", " ", "$", "${", "}", "(", ")", "A=", "$A", "${A[@]}",
    "<<E", "E\n", "`", "@(", '@"', "#", "<#", "^", "%", "%A%", "!A!", "&&", "||", "|", "&", ";", "<", ">", "if", "fi",
    "for", "do", "done", "case", "esac", "{", "[[", "]]", "*", "set ", "goto", "rem ", "::", "$(", "~", ",", "\t",
    "\r", "\0", "\x0b", "f()", "$a=", "accelerate launch train_network.py", "\ud800", "\\\n", "^\n", "`\n",
]  # fmt: skip
NOISE = st.lists(st.sampled_from(SIGNS), max_size=25).map("".join) | st.text(max_size=40)


def quoted(word: str, suffix: str) -> str:
    """A word as a person would write it for a shell."""
    if suffix == ".sh":
        return shlex.quote(word)
    if suffix == ".bat":
        return f'"{word}"' if re.search(r"[ =,']", word) else word
    return "'" + word.replace("'", "''") + "'"


def with_a_line(text: str, suffix: str) -> None:
    """Every problem of a script has a line, and without one there is a call."""
    conversion, script = convert_command_line(text, suffix=suffix), script_of(text, suffix)
    assert all(re.fullmatch(r"line \d+", problem.where) for problem in conversion.problems), conversion.problems
    assert conversion.problems or script.call is not None
    assert isinstance(is_command_line(text), bool)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(words=ARGUMENTS, suffix=st.sampled_from([".sh", ".bat", ".ps1"]), data=st.data())
def test_a_call_between_lines_that_change_nothing(words: list[str], suffix: str, data: st.DataObject) -> None:
    joiner = {".sh": " \\\n  ", ".bat": " ^\n  ", ".ps1": " `\n  "}[suffix]
    parts = ["accelerate launch train_network.py", *(quoted(word, suffix) for word in words)]
    call = "".join(part + data.draw(st.sampled_from([" ", joiner])) for part in parts[:-1]) + parts[-1]
    lines = st.lists(st.sampled_from(INERT[suffix]), max_size=5)
    script = script_of("\n".join([*data.draw(lines), call, *data.draw(lines)]), suffix)
    assert not script.problems, script.problems
    assert script.call is not None and script.call.words == words


@settings(derandomize=True, max_examples=200, deadline=None)
@given(words=ARGUMENTS, suffix=st.sampled_from([".sh", ".bat", ".ps1"]), before=NOISE, after=NOISE)
@example(words=["--x"], suffix=".sh", before="echo \\", after="")
@example(words=["--x"], suffix=".sh", before="A='", after="'")
@example(words=["--x"], suffix=".bat", before="echo ^", after="")
def test_a_call_between_lines_of_anything(words: list[str], suffix: str, before: str, after: str) -> None:
    call = " ".join(["python train_network.py", *(quoted(word, suffix) for word in words)])
    text = f"{before}\n{call}\n{after}\n"
    script = script_of(text, suffix)
    with_a_line(text, suffix)
    if not convert_command_line(text, suffix=suffix).problems:
        assert script.call is not None and script.call.words == words


@settings(derandomize=True, max_examples=300, deadline=None)
@given(text=NOISE, suffix=st.sampled_from([".sh", ".bat", ".ps1", ""]))
def test_any_text_is_read_or_refused_with_a_line(text: str, suffix: str) -> None:
    with_a_line(text, suffix)


STATEMENTS = [
    "A=1", 'A="a b"', "A='x  y'", "B=$A", 'B="$A c"', 'C=(1 "2 3" $A)', "C+=(z)", 'C+=("$A")', "export A=q", "A+=5",
    "{ A=3; }", "if [ -d x ]; then A=2; fi", "if true; then echo no; fi", "for i in 1 2; do A=$i; done",
    "f() { A=9; }", "( A=4 )", "A=a#b", "true && A=5", "false || A=6", "true || A=7", "[ -d x ] && A=8", "D=${A:-d}",
    "E=${X:-e f}", 'E=${X-"g h"}', ": ${G:=gg}", "case x in x) A=0;; esac", "case $A in a*) echo b;; *) :;; esac",
    'cat <<EOF\nA=1 $A "\nEOF', "A=1 B=2", "A=1 echo x", "cat <<'EOF'\npython train_network.py --no\nEOF",
    "declare A=dd", "A=$(echo 1)", "A=`echo 1`", "((A=1))", "let A=2", "A=*", "read A < /dev/null", "A=t # c",
    "A=~/x", 'A="\\$B\\\\"', "A=$'l m'", "A=\\\"q", 'A="a\nb"', "echo \\\n A=1", "A=a\\\nb", "! true", "true | A=k",
    "time A=5", "true &&\nA=nl", "unset A", "x=1; y=$x$x",
]  # fmt: skip
USES = [
    "--a=1", '--b "c d"', "$A", '"$A"', "--x=$A", '--x="$A"', "${A}", '"${C[@]}"', "${C[@]}", "$B", '"$B"y', "'$A'",
    "\\$A", "a\\ b", '"q\\"r"', "'s\"t'", "$D", '"$E"', "$E", "${A:-z}", '"${A:+y}"', '${Q:-"n o"}', '"$@"', '""',
    "$G", "$E$A", "x$E", "a#b", '"${Q-$A}"', "\\\n --n", '"a\nb"', "*.no", "[x", "$", '$"loc"', "~/h", '"~/h"', "a~",
    '$A"$B"', "${A}s", '"${C[@]}"x', 'x"${C[*]}"', "{a,b}", "$C", "!x", "--y=~/k",
]  # fmt: skip
ENDS = ["", " > log 2>&1", " | cat", " # c", " || true", "; A=1", " &> log"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash itself is asked")
@settings(
    derandomize=True, max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(st.sampled_from(STATEMENTS), max_size=4),
    uses=st.lists(st.sampled_from(USES), min_size=1, max_size=4),
    end=st.sampled_from(ENDS),
)
def test_bash_calls_the_script_with_the_same_words(tmp_path: Path, lines: list[str], uses: list[str], end: str) -> None:
    """Where nothing is refused, a shell that runs the text hands over the very same words."""
    text = "\n".join([*lines, f"accelerate launch train_network.py {' '.join(uses)}{end}\n"])
    script = script_of(text, ".sh")
    if script.problems or script.call is None or any("\0" in word and word != REST for word in script.call.words):
        return
    program, calls = tmp_path / "accelerate", tmp_path / "calls"
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> "$CALLS"\n')
    program.chmod(0o755)
    (tmp_path / "work").mkdir(exist_ok=True)
    calls.unlink(missing_ok=True)
    home = script.values.get("HOME", "/")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(home), "CALLS": str(calls)}
    subprocess.run(
        ["bash", "-c", text], env=environment, cwd=tmp_path / "work", capture_output=True, timeout=60, check=False
    )
    expected = ["launch", "train_network.py", *(word for word in script.call.words if word != REST)]
    assert calls.read_text().split("\0")[:-1] == expected
