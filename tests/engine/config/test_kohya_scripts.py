"""Scripts of shells: the arguments of the call exactly, or a problem that shows the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config.kohya.command_line import convert_command_line, script_of
from engine.config.kohya.scripts.script import HINT
from engine.config.load import load_config
from tui.main import run

A = "--network_dim=4 --learning_rate=1e-4"
WORDS = A.split()
CALL = f"accelerate launch train_network.py {A}"

UNDERSTOOD: list[tuple[str, str, list[str]]] = [
    # what a call may have around it
    (".sh", f"#!/bin/bash\nset -euo pipefail\nsource venv/bin/activate\n{CALL}\necho done\n", WORDS),
    (".sh", f"cd /opt/sd-scripts && . ./venv/bin/activate && {CALL}", WORDS),
    (".sh", f"export HF_HOME=/x\nexport CUDA_VISIBLE_DEVICES=0\nnohup {CALL} > log.txt 2>&1 &\nwait", WORDS),
    (".sh", f"{CALL} 2>&1 | tee log.txt", WORDS),
    (".sh", f"mkdir -p out || exit 1\n{CALL} >> log.txt || echo failed\nexit 0", WORDS),
    (".sh", f"yes | CUDA_VISIBLE_DEVICES=1 {CALL} --output_name=x", [*WORDS, "--output_name=x"]),
    (".sh", f"docker run --rm -v $PWD:/w --gpus all sd python3 /app/train_network.py {A}", WORDS),
    (".sh", f"time python -u ./sd-scripts/train_network.py {A}", WORDS),
    (".sh", f"conda activate sd\nconda run -n sd {CALL}", WORDS),
    (".sh", f"trap 'kill 0' EXIT\nsleep 5; {CALL}; nvidia-smi", WORDS),
    (".sh", f'if [ ! -f "train_network.py" ]; then echo "no sd-scripts here"; exit 1; fi\n{CALL}', WORDS),
    (
        ".sh",
        f"if [[ -z $X && -d (venv) ]]; then\n  exit 1\nelif [ a ]; then\n  echo b\nelse\n  echo c\nfi\n{CALL}",
        WORDS,
    ),
    (".sh", f"[ -d venv ] || exit 1\n{CALL}", WORDS),
    (".sh", f"for f in a b; do echo $f; done\nwhile false; do sleep 1; done\n{CALL}", WORDS),
    (".sh", f"case $1 in\n  -h|--help) echo usage; exit 0 ;;\n  (*) ;;\nesac\n{CALL}", WORDS),
    (
        ".sh",
        f"die() {{ echo $1; exit 1; }}\nfunction hello {{\n  echo hi\n}}\nhello\n[ -d x ] || die no\n{CALL}",
        WORDS,
    ),
    (".sh", f"python - <<'PY'\nimport os\nos.system(\"python train_network.py --x\")\nPY\n{CALL}", WORDS),
    (".sh", f"cat <<EOF\n  python train_network.py --x $(date)\nEOF\n{CALL}", WORDS),
    (".sh", f"# {CALL} --x\n{CALL} # --x\n", WORDS),
    (".sh", f"{CALL} \\\n  # --x \\\n\necho done", WORDS),
    (".sh", f"ls train_network.py\nchmod +x train_network.py\n{CALL}", WORDS),
    (".sh", "accelerate launch \\\r\n train_network.py \\\r\n --network_dim=4 \\\r\n --learning_rate=1e-4\r\n", WORDS),
    (".sh", f'eval "$(conda shell.bash hook)"\nconda activate sd\n{CALL}', WORDS),
    (".sh", f'eval "$(/opt/conda/bin/micromamba shell hook --shell bash)"\n{CALL}', WORDS),
    (".sh", f"if {CALL}; then\n  echo ok\nelse\n  exit 1\nfi", WORDS),
    (".sh", f"if ! {CALL}; then echo no; fi", WORDS),
    (".sh", f"{{ {CALL}; }} 2>&1 | tee log.txt", WORDS),
    (".sh", f"(cd /opt/sd-scripts && {CALL})\nsudo sysctl -w vm.swappiness=1", WORDS),
    (".sh", f"screen -dmS train {CALL}", WORDS),
    (".sh", f"{CALL}\nsay done\nrunpodctl stop pod $RUNPOD_POD_ID\nbash", WORDS),
    (".sh", f"{CALL} \\", WORDS),
    (".sh", "python train_network.py \\\n  `# rank` \\\n  --network_dim=4 \\\n  --learning_rate=1e-4 `# no`", WORDS),
    (".sh", f"%cd /content/sd-scripts\n!pip install x\n!{CALL}", WORDS),
    # variables of a POSIX shell
    (".sh", f"SCRIPT=sdxl_train_network.py\naccelerate launch $SCRIPT {A}", WORDS),
    (".sh", f'D=/x/sd\nRUN="accelerate launch --num_processes=2 $D/train_network.py"\n$RUN {A}', WORDS),
    (".sh", "LR=1e-4; DIM=4\npython train_network.py --network_dim=$DIM --learning_rate=${LR}", WORDS),
    (".sh", f'E=\nF="  "\npython train_network.py $E {A} $F', WORDS),
    (".sh", "W=--network_dim=4\\ --learning_rate=1e-4\npython train_network.py $W", WORDS),
    (".sh", 'W="a b"\npython train_network.py --x "$W" --y=$W', ["--x", "a b", "--y=a", "b"]),
    (".sh", 'D=${OUT_X:-"/o ut"}\npython train_network.py --x "${D:=z}/${N_X-n}"', ["--x", "/o ut/n"]),
    (
        ".sh",
        'A=a\npython train_network.py --x "${A:+b}" ${A:?no} "$A#1" a#b \\#c',
        ["--x", "b", "a", "a#1", "a#b", "#c"],
    ),
    (
        ".sh",
        'python train_network.py --x \'a "b"\' "it\'s \\"c\\" \\d" a\\ b',
        ["--x", 'a "b"', 'it\'s "c" \\d', "a b"],
    ),
    (".sh", "python train_network.py --x \"a\nb\" --y=$'c d'", ["--x", "a\nb", "--y=c d"]),
    (
        ".sh",
        'ARGS=(\n  --x "a b"   # images\n  # --no\n  --y\n)\nARGS+=(--z)\npython train_network.py "${ARGS[@]}"',
        ["--x", "a b", "--y", "--z"],
    ),
    (".sh", 'E=()\npython train_network.py "${E[@]}" --y', ["--y"]),
    (".sh", "train_network.py --x [ ] [", ["--x", "[", "]", "["]),
    ("", 'OUT="C:/out"\npython train_network.py --x "$OUT"', ["--x", "C:/out"]),
    # cmd
    (".bat", f"@echo off\ncall venv\\Scripts\\activate.bat\ncd /d D:\\sd\n{CALL}\npause\n", WORDS),
    (".bat", f'chcp 65001 >nul\ntitle a\nset PYTHONUTF8=1\nstart "" /wait {CALL} > log.txt 2>&1\nexit /b 0', WORDS),
    (".cmd", 'python train_network.py ^\n --x="C:\\my models\\x" ^\n --y', ["--x=C:\\my models\\x", "--y"]),
    (".bat", 'set M="C:\\my models\\m"\npython train_network.py --x=%M%', ["--x=C:\\my models\\m"]),
    (".bat", 'set M="C:\\my"\npython train_network.py --x="%M%" --y', ["--x=C:\\my", "--y"]),
    (".bat", 'set "A=b " & set B=c\npython train_network.py "%A%" "%b%"', ["b ", "c"]),
    (".bat", 'set A=b \npython train_network.py "%a%"', ["b "]),
    (".bat", "set A=100%%\npython train_network.py %A%.", ["100%."]),
    (".bat", "set A=1\nset A=%A%2\nset B=\npython train_network.py --x%B%=%A%", ["--x=12"]),
    (".bat", "setlocal EnableDelayedExpansion\nset A=4\npython train_network.py --x=!A!", ["--x=4"]),
    (".bat", 'python train_network.py --x="a^b & c" d^&e ^"f^"', ["--x=a^b & c", "d&e", "f"]),
    (".bat", 'python train_network.py "a\\\\" "b\\"c" d\\e', ["a\\", 'b"c', "d\\e"]),
    (".bat", f"if not exist train_network.py (\n echo no ^(really^)\n) else (\n echo yes\n)\n{CALL}", WORDS),
    (".bat", f'if "%1"=="" echo no & goto end\n{CALL}\nif errorlevel 1 goto :end\n:end\npause', WORDS),
    (".bat", f"for %%f in (a b) do (\n echo %%f\n)\nfor /l %%i in (1,1,3) do echo %%i\n{CALL}", WORDS),
    (".bat", f"rem {CALL} --x\n:: {CALL}\necho {CALL} ^\n --y\n@{CALL}", WORDS),
    (".bat", f"{CALL} ^", WORDS),
    (".bat", f"{CALL}\ncmd /k", WORDS),
    (".bat", f'powershell -Command "Get-Date"\n{CALL}', WORDS),
    (".bat", f"set CMD=accelerate launch train_network.py\n%CMD% {A}", WORDS),
    ("", "@echo off\nset X=a^\nb\nset D=4\npython train_network.py --network_dim=%D% --learning_rate=1e-4", WORDS),
    # PowerShell
    (
        ".ps1",
        f"$ErrorActionPreference = 'Stop'\n.\\venv\\Scripts\\activate\n$Env:HF_HOME = \"x\"\n{CALL}\nWrite-Output ok",
        WORDS,
    ),
    (
        ".ps1",
        '$d = 4 # rank\n$lr = "1e-4"\n& python train_network.py `\n --network_dim=$d `\n --learning_rate=$lr',
        WORDS,
    ),
    (
        ".ps1",
        f"<# {CALL} #>\npython train_network.py `\n  --network_dim=4 `\n<# --x #> `\n--learning_rate=1e-4\nls;",
        WORDS,
    ),
    (
        ".ps1",
        '$a = @(\n "--x=$($null)"\n)\n$a = @("--x", \'y z\'\n "--w")\n$A += "--v"\npython train_network.py @a',
        ["--x", "y z", "--w", "--v"],
    ),
    (
        ".ps1",
        '$m = "C:\\m"\n$l = "--x=$m\\a.b", "--y"\npython train_network.py $l --z "$m.q" `$m',
        ["--x=C:\\m\\a.b", "--y", "--z", "C:\\m.q", "$m"],
    ),
    (
        ".ps1",
        f"if (-not (Test-Path train_network.py)) {{ echo no; exit 1 }}\nls | ForEach-Object {{ $_ }}\n{CALL}",
        WORDS,
    ),
    (".ps1", "python train_network.py --r=512,768 'it''s' \"a`\"\"".replace('`"', "b"), ["--r=512,768", "it's", "ab"]),
    (".ps1", "$x = 1.0; $y = 5e-6\npython train_network.py --x=$x --y=$y | Tee-Object log.txt", ["--x=1", "--y=5E-06"]),
    (".ps1", f"{CALL} `", WORDS),
    (
        ".ps1",
        '[int]$d = 4\n[string]$l = "1e-4"\n[string[]]$a = @("--network_dim=$d", "--learning_rate=$l")\n'
        "python train_network.py $a",
        WORDS,
    ),
    ("", "$x = 'a b'\npython train_network.py --x $x", ["--x", "a b"]),
]

REFUSED: list[tuple[str, str, int, str]] = [
    # a lost continuation
    (".sh", "python train_network.py \\\n --a=1\n --b=2 \\\n --c=3", 3, "line 2, `--a=1`, ends without \\"),
    (".sh", "python train_network.py --a=1 \\ \n --b=2", 2, "has blanks after its \\"),
    (".sh", "python train_network.py --a=1 \\\n\n --b=2", 3, "line 2 is empty"),
    (".sh", "python train_network.py --a=1 \\\n # --b=2 \\\n --c", 3, "line 2, `# --b=2 \\`, is a comment"),
    (".sh", 'python train_network.py --network_args\n "conv_dim=4" --x', 2, "is not understood"),
    (".bat", "python train_network.py ^\n --a=1\n --b=2", 3, "line 2, `--a=1`, ends without ^"),
    (".bat", "python train_network.py --a=1 ^ \n --b=2", 2, "has blanks after its ^"),
    (".bat", "python train_network.py --a=1 \\\n --b=2", 2, "ends without ^"),
    (".ps1", "python train_network.py `\n --a=1\n --b=2", 3, "ends without `"),
    # a call that may not run, or runs more than once
    (".sh", "for N in a b; do\n python train_network.py --x=$N\ndone", 2, "depends on line 1, `for N in a b; do`"),
    (".sh", "if [ $1 ]; then python train_network.py --x; fi", 1, "depends on line 1"),
    (".sh", "[ $1 ] || {\n:\npython train_network.py --x\n}", 3, "depends on line 1"),
    (".sh", "[ $1 ] && (\n:\npython train_network.py --x\n)", 3, "depends on line 1"),
    (".sh", "[ $1 ] || if :\npython train_network.py --x; then\n:\nfi", 2, "depends on line 1"),
    (".sh", "(N=a; :)\npython train_network.py --output_name=$N", 2, "it depends on line 1"),
    (".bat", 'powershell -Command "python train_network.py --x"', 1, "is not understood"),
    (".sh", "if [ $1 ]; then\n:\nelif python train_network.py --x; then\n:\nfi", 3, "depends on line 1"),
    (".sh", "while true\ndo\n python train_network.py --x\ndone", 3, "depends on line 1, `while true`"),
    (".sh", "case $1 in\n a) python train_network.py --x ;;\nesac", 2, "depends on line 1, `case $1 in`"),
    (".sh", "train() {\n python train_network.py --x\n}\ntrain", 2, "depends on line 1, the function train"),
    (".sh", "[ -f x ] && python train_network.py --x", 1, "depends on a test in line 1"),
    (".sh", "python train_network.py --x || python train_network.py --y", 1, "depends on a test in line 1"),
    (
        ".sh",
        "python train_network.py --x\nsleep 1\npython sdxl_train_network.py --y",
        3,
        "is another call, after line 1",
    ),
    (".sh", "exit 0\npython train_network.py --x", 2, "never reached: line 1, `exit 0`"),
    (
        ".bat",
        "for %%n in (a b) do (\n python train_network.py --x=%%n\n)",
        2,
        "depends on line 1, `for %%n in (a b) do (`",
    ),
    (".bat", "if exist x python train_network.py --x", 1, "depends on line 1"),
    (".bat", "if exist x (\n echo a\n) else (\n python train_network.py --x\n)", 4, "depends on line 3"),
    (".bat", ":again\npython train_network.py --x\ngoto again", 3, "jumps"),
    (".bat", "goto end\npython train_network.py --x\n:end", 1, "jumps"),
    (".bat", "call :train\n:train\npython train_network.py --x", 1, "jumps"),
    (".bat", "exit /b\npython train_network.py --x", 2, "never reached"),
    (".ps1", "foreach ($n in 'a','b') {\n python train_network.py --x=$n\n}", 2, "depends on line 1"),
    (".ps1", "try {\n python train_network.py --x\n} catch { exit 1 }", 2, "depends on line 1"),
    (".ps1", "function go {\n python train_network.py --x\n}\ngo", 2, "depends on line 1, `function go {`"),
    # what hides a call
    (".sh", 'bash -c "python train_network.py --x"', 1, "is not understood"),
    (".sh", "bash <<EOF\npython train_network.py --x\nEOF", 1, "is not understood"),
    (".sh", "OUT=$(python train_network.py --x)\npython train_network.py --y", 1, "is not understood"),
    (".sh", 'C="python train_network.py"\neval $C --x', 2, "is not understood"),
    (".sh", "python wrap.py train_network.py --x", 1, "is not understood"),
    (".sh", "./other.sh\npython train_network.py --x", 1, "`./other.sh` is not understood"),
    (".sh", "source settings.sh\npython train_network.py --x", 1, "`source settings.sh` is not understood"),
    (".sh", "IFS=,\npython train_network.py --x", 1, "changes how the shell reads"),
    (".sh", "python() { echo; }\npython train_network.py --x", 1, "redefines a program"),
    (".sh", "$PYTHON train_network.py --x", 1, "is not understood"),
    (".sh", "accelerate launch --num_processes=$N train_network.py --x", 1, "is not understood"),
    (".sh", "python -m accelerate.commands.launch --num_processes=$N train_network.py --x", 1, "is not understood"),
    (".sh", "torchrun --nproc_per_node $N train_network.py --x", 1, "is not understood"),
    (".sh", 'eval "$(tool hook)"\npython train_network.py --x', 1, "is not understood"),
    (".sh", 'python train_network.py --x\necho "python train_network.py --y" | bash', 2, "is not understood"),
    (".bat", "call other.bat\npython train_network.py --x", 1, "`call other.bat` is not understood"),
    (".bat", 'cmd /c "python train_network.py --x"', 1, "is not understood"),
    (".ps1", "Start-Process python -ArgumentList 'train_network.py --x'", 1, "is not understood"),
    (".ps1", "$o = python train_network.py --x\npython train_network.py --y", 1, "is not understood"),
    (".ps1", "Start-Job { python train_network.py --x }", 1, "is not understood"),
    # values that the file does not settle
    (
        ".sh",
        'A=(--x)\nif [ $1 ]; then A+=(--y); fi\npython train_network.py "${A[@]}"',
        3,
        "it depends on line 2, `if [ $1 ]",
    ),
    (".sh", "N=a\n[ $1 ] && N=b\npython train_network.py --output_name=$N", 3, "it depends on line 2"),
    (".sh", "python train_network.py --output_name=$1", 1, "$1: the file does not define it"),
    (".sh", "N=$(date)\npython train_network.py --output_name=$N", 2, "$(date): the file does not define it"),
    (".sh", "python train_network.py --output_dir `pwd`/x", 1, "`pwd`/x: the file does not define it"),
    (".sh", "python train_network.py --base_weights *.safetensors", 1, "the shell may replace it by file names"),
    (".sh", "python train_network.py --output_name={a,b}", 1, "the shell may replace it by file names"),
    (".sh", "N=${X%.*}\npython train_network.py --output_name ${N}", 2, "${X%.*}: the file does not define it"),
    (".sh", "read N\nN=a\nread N\npython train_network.py --output_name $N", 4, "it depends on line 3, `read N`"),
    (".sh", "cd x\npython train_network.py --output_dir $PWD/y", 2, "the file does not define it"),
    (".bat", "python train_network.py --output_name=%1", 1, "%1: the file does not define it"),
    (".bat", "set N=abcd\npython train_network.py --output_name=%N:~0,3%", 2, "%N:~0,3%: the file does not define it"),
    (".bat", "python train_network.py --output_dir=%~dp0out", 1, "%~dp0out: the file does not define it"),
    (".bat", "python train_network.py --lr_warmup_steps=10% --network_dim=4", 1, "a percent sign is written %%"),
    (".bat", "set N=a\npython train_network.py --output_name=!N!", 2, "without setlocal enabledelayedexpansion"),
    (".bat", "set A=1\nset /a A=2,B=3\npython train_network.py --seed=%B%", 3, "it depends on line 2"),
    (".bat", "setlocal\nset A=1\nendlocal\npython train_network.py --seed=%A%", 4, "it depends on line 3, `endlocal`"),
    (".bat", 'if "%1"=="x" (set A=1) else (set A=2)\npython train_network.py --seed=%A%', 2, "it depends on line 1"),
    (".ps1", "$n = Get-Date\npython train_network.py --output_name=$n", 2, "Get-Date: the file does not define it"),
    (".ps1", "$n = 'a' + 'b'\npython train_network.py --output_name $n", 2, "'a' + 'b': the file does not define it"),
    (".ps1", "$n = 4\n$n += 1\npython train_network.py --seed=$n", 3, "it depends on line 2, `$n += 1`"),
    (".ps1", "[int]$n = '4.6'\npython train_network.py --seed=$n", 2, "'4.6': the file does not define it"),
    (".ps1", '$n = Join-Path $b "m"\npython train_network.py --vae=$n', 2, "the file does not define it"),
    (".ps1", "if ($x) { $n = 'a' }\npython train_network.py --output_name $n", 2, "it depends on line 1"),
    (".ps1", "$a = @('--seed=1')\n$a.Add('--y')\npython train_network.py @a", 2, "is not understood"),
    (".ps1", "python train_network.py --output_name $env:NAME", 1, "$env:NAME: the file does not define it"),
    (".ps1", "param($n = 'a')\npython train_network.py --output_name $n", 2, "it depends on line 1"),
    (".ps1", "python train_network.py --resolution 512, 768", 1, "it makes a list"),
    # what has no end
    (".sh", 'python train_network.py --x "a\n--y', 1, "a quotation mark is not closed"),
    (".sh", "A=(--x\npython train_network.py --y", 1, "the bracket ( is not closed"),
    (".sh", "if true; then\npython train_network.py --y", 1, "is not closed"),
    (".sh", "cat > x <<EOF\npython train_network.py --y", 1, "<<EOF is not closed"),
    (".bat", 'python train_network.py --x="a', 1, "a quotation mark is not closed"),
    (".bat", "if exist x (\npython train_network.py --y", 1, "is not closed"),
    (".ps1", "python train_network.py --x 'a", 1, "a quotation mark is not closed"),
    (".ps1", "if ($x) {\npython train_network.py --y", 1, "is not closed"),
]

OWN_FOLDER: list[tuple[str, str, str]] = [
    (".bat", 'python train_network.py "--vae=%~dp0x y" --seed=1', "/my files/x y"),
    (".bat", 'cd /d "%~DP0"\nset "V=%~dp0x"\npython train_network.py --vae="%V%" --seed=1', "/my files/x"),
    (".ps1", '$v = "$PSScriptRoot/x"\npython train_network.py --vae $v --seed=1', "/my files/x"),
    (".sh", 'python train_network.py --vae="$(dirname "$0")/x" --seed=1', "/my files/x"),
    (".sh", 'D="$(dirname "$(readlink -f "$0")")"\npython train_network.py --vae "$D/x" --seed=1', "/my files/x"),
    (
        ".sh",
        'D=$( cd -- "$( dirname -- "${BASH_SOURCE[0]}" )" &> /dev/null && pwd )\n'
        'cd "$D"\npython train_network.py --vae "$D/x" --seed=1',
        "/my files/x",
    ),
    (
        ".sh",
        'D="$(cd "$(dirname "$0")" >/dev/null 2>&1 && pwd -P)"\npython train_network.py --vae "$D" --seed=1',
        "/my files",
    ),
]


@pytest.mark.parametrize(("suffix", "text", "value"), OWN_FOLDER)
def test_the_folder_of_the_file_itself(suffix: str, text: str, value: str) -> None:
    conversion = convert_command_line(text, suffix=suffix, own_folder="/my files")
    assert not conversion.problems, conversion.problems
    assert conversion.values["model"]["vae"] == value and conversion.values["training"]["seed"] == 1
    assert "/my files" in [entry.value for entry in conversion.entries if entry.text == "the folder of this file"]
    (problem, *_) = convert_command_line(text, suffix=suffix).problems
    assert "the file does not define it" in problem.message


@pytest.mark.parametrize(("suffix", "text", "words"), UNDERSTOOD)
def test_the_arguments_of_the_call_exactly(suffix: str, text: str, words: list[str]) -> None:
    script = script_of(text, suffix)
    assert not script.problems, script.problems
    assert script.call is not None and script.call.words == words


@pytest.mark.parametrize(("suffix", "text", "line", "message"), REFUSED)
def test_what_is_not_certain_is_a_problem_with_its_line(suffix: str, text: str, line: int, message: str) -> None:
    problems = convert_command_line(text, suffix=suffix).problems
    matching = [problem for problem in problems if message in problem.message]
    assert [problem.where for problem in matching] == [f"line {line}"], problems
    assert matching[0].hint.endswith(HINT)


CASES: dict[str, tuple[str, int | str]] = {
    "quoted_value.bat": (
        r"""@echo off
set MODEL="C:\my models\m.safetensors"
set OUT=C:\out
accelerate launch train_network.py ^
 --pretrained_model_name_or_path=%MODEL% ^
 --train_data_dir=%OUT% --network_module=networks.lora --learning_rate=1e-4
""",
        r"C:\my models\m.safetensors",
    ),
    "test_before.sh": (
        r"""#!/bin/bash
if [ ! -f "sdxl_train_network.py" ]; then echo "no sd-scripts here"; exit 1; fi
accelerate launch sdxl_train_network.py \
 --pretrained_model_name_or_path=m.safetensors --learning_rate=1e-4 \
 --train_data_dir=test/img --network_module=networks.lora
""",
        "m.safetensors",
    ),
    "script_variable.sh": (
        r"""#!/bin/bash
SCRIPT=sdxl_train_network.py
accelerate launch $SCRIPT \
 --pretrained_model_name_or_path=m.safetensors --learning_rate=1e-4
""",
        "m.safetensors",
    ),
    "test_before.bat": (
        """@echo off
if not exist sdxl_train_network.py (
  echo not found
  exit /b 1
)
python sdxl_train_network.py --pretrained_model_name_or_path=m.safetensors ^
 --learning_rate=1e-4 --train_data_dir=test/img --network_module=networks.lora
""",
        "m.safetensors",
    ),
    "lost.bat": (
        """@echo off
python train_network.py --pretrained_model_name_or_path=m.safetensors ^
 --learning_rate=1e-4 --train_data_dir=test/img
 --network_module=networks.lora --network_dim=64
""",
        4,
    ),
    "lost.sh": (
        r"""#!/bin/bash
accelerate launch --num_cpu_threads_per_process 1 train_network.py \
  --network_module=networks.lora --network_dim=32
  --network_alpha=16 \
  --learning_rate=1e-4
""",
        4,
    ),
    "list.sh": (
        """#!/bin/bash
ARGS=(
  --pretrained_model_name_or_path "m.safetensors"
  --train_data_dir "test/img"   # images
  --network_module networks.lora
  --learning_rate 1e-4 --network_args "conv_dim=4" "conv_alpha=1"
)
if [ "$1" = "big" ]; then ARGS+=(--network_dim 64); fi
accelerate launch train_network.py "${ARGS[@]}"
""",
        9,
    ),
    "splat.ps1": (
        r"""$model = "C:\models\m.safetensors"
$args1 = @("--pretrained_model_name_or_path=$model", "--learning_rate=1e-4", "--train_data_dir=test/img")
accelerate launch train_network.py @args1 --network_module=networks.lora
""",
        r"C:\models\m.safetensors",
    ),
    "two_variables.bat": (
        """@echo off
set CMD=accelerate launch train_network.py
set ARGS=--pretrained_model_name_or_path=m.safetensors --learning_rate=1e-4
set ARGS=%ARGS% --train_data_dir=test/img --network_module=networks.lora
%CMD% %ARGS%
""",
        "m.safetensors",
    ),
    "background.sh": (
        """#!/bin/bash
export CUDA_VISIBLE_DEVICES=0
nohup accelerate launch train_network.py --pretrained_model_name_or_path=m.safetensors --output_name=x > log.txt 2>&1 &
""",
        "m.safetensors",
    ),
    "docker.sh": (
        """#!/bin/bash
# env first, then docker style
docker run --rm -v $PWD:/w sd python3 /app/train_network.py --pretrained_model_name_or_path=m.safetensors
""",
        "m.safetensors",
    ),
    "loop.sh": (
        """#!/bin/bash
python - <<'PY'
import os
os.system("echo train_network.py")
PY
LR=1e-4; DIM=16
for NAME in ann bob; do
  accelerate launch train_network.py --learning_rate=$LR --network_dim=$DIM --output_name=$NAME
done
""",
        8,
    ),
    "toml.sh": (
        """#!/bin/bash
LR=1e-4
cat > cfg.toml <<EOF
[a]
network_module = "networks.lora"
learning_rate = $LR
pretrained_model_name_or_path = "m.safetensors"
train_data_dir = "test/img"
EOF
accelerate launch train_network.py --config_file=cfg
""",
        "m.safetensors",
    ),
    "delayed.bat": (
        """@echo off
setlocal enabledelayedexpansion
set LR=1e-4
set "ARGS=--pretrained_model_name_or_path=m.safetensors --train_data_dir=test/img"
python train_network.py !ARGS! --learning_rate=!LR! --network_module=networks.lora
""",
        "m.safetensors",
    ),
}
"""Files as people have them: the model that they name, or the line that is not certain."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_converted_or_refused_with_its_line(
    name: str, encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / name, tmp_path / "made.toml"
    path.write_text(CASES[name][0], encoding=encoding)
    code, expected = run(["convert", str(path), "--output", str(target)]), CASES[name][1]
    printed = capsys.readouterr().err
    if isinstance(expected, str):
        assert code == 0, printed
        assert load_config(target).model.pretrained_model_name_or_path == expected
    else:
        assert code == 2 and not target.exists()
        assert f"{name}, line {expected}: " in printed and HINT in printed


def test_a_file_that_is_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.bat"
    path.write_bytes('python train_network.py --output_name="学習"\n'.encode("cp932"))
    for command in (["convert", str(path)], ["--preset", str(path)]):
        assert run(command) == 2
        assert "it is not UTF-8" in (printed := capsys.readouterr().err) and "Encoding: UTF-8" in printed


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ("[ x ] && cat > c.toml <<E\nseed = 1\nE", 1),
        ("cat > c.toml <<E\nseed = $(date)\nE", 1),
        ("cat > c.toml <<'E'\nseed = 1\nE\nsed -i s/1/2/ c.toml", 4),
        ("echo 'seed = 1' > ./c.toml", 1),
        ("echo hi\npython make.py --out=c.toml", 2),
        ("cat > $DIR/c.toml <<E\nseed = 1\nE", 1),
        ("cat >> c.toml <<E\nseed = 1\nE", 1),
        ("cat > c.toml <<E\nseed = 1\nE\ncd x", 1),
        ("cat <<E | tee c.toml\nseed = 1\nE", 1),
    ],
)
def test_a_configuration_that_the_script_writes_otherwise(lines: str, line: int) -> None:
    conversion = convert_command_line(f"{lines}\npython train_network.py --config_file c.toml\n")
    (problem,) = [problem for problem in conversion.problems if problem.key == "config_file"]
    assert f"c.toml is written by line {line}, `" in problem.message
    problems = convert_command_line(f"{lines}\npython train_network.py --dataset_config c.toml\n").problems
    assert [(problem.where, problem.key) for problem in problems] == [(f"line {line}", "dataset_config")]


def test_what_is_assumed_or_not_run_is_reported() -> None:
    lines = "pip install x\npython tag.py --x\nexport OUT=${BASE_DIR_X:-$HOME/out}\n"
    conversion = convert_command_line(f'{lines}python train_network.py --output_dir="$OUT" "$@"\n')
    assert not conversion.problems
    reported = {entry.key: entry.value for entry in conversion.entries if entry.status == "no effect"}
    assert reported["line 1"] == "pip install x" and reported["line 2"] == "python tag.py --x"
    assert reported["BASE_DIR_X"].endswith("/out") and reported["arguments"] == "$@"


def test_a_script_that_is_far_too_large_ends_early() -> None:
    assert len(script_of("what\n" * 1000).problems) == 20
    assert script_of("python train_network.py --x\n" + "#" * 70000).problems[0].where == "line 1"
    doubled = script_of("A=aa\n" + "A=$A$A\n" * 100 + "python train_network.py --x $A")
    assert "far longer than arguments" in doubled.problems[0].message
