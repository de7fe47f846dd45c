"""The commands in scripts by their effect on the call of Kohya's script, in lower case."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


INERT = _names("""
    [ [[ test (( : true false echo printf cat ls dir pwd sleep wait date clear cls which type hash command
    hostname whoami uname mkdir md touch umask ulimit trap shopt shift jobs disown alias stty tput nproc free df
    du stat time nvidia-smi pause title chcp color ver prompt rem endlocal setlocal timeout mode where break
    verify write-host write-output write-error write-warning write-verbose start-sleep read-host out-null
    get-date get-location get-childitem test-path get-command get-item select-object measure-object
    set-executionpolicy clear-host set-strictmode new-item start-transcript stop-transcript module conda mamba
    micromamba deactivate activate head tail grep wc sort uniq tr cut awk findstr find tee basename dirname
    realpath readlink nvcc lscpu continue yes
    foreach-object where-object sort-object group-object format-table format-list out-host out-string split-path
    resolve-path get-variable
""")
"""They print, wait, read or prepare: they change no file of the training, and no variable of the call."""

FOLDER = _names("""
    cd chdir pushd popd set-location push-location pop-location sl
""")

RUNNERS = _names("""
    python python3 python2 pythonw py accelerate accelerate-launch torchrun deepspeed ipython
""")

LAUNCHERS = _names("""
    launch accelerate-launch accelerate.commands.launch torchrun deepspeed torch.distributed.run
    torch.distributed.launch
""")
"""The last word of a launcher, before its options."""

WRAPPERS = _names("""
    nohup env time nice ionice chrt taskset numactl sudo exec command stdbuf setsid unbuffer xvfb-run srun
    timeout docker podman nerdctl singularity apptainer conda mamba micromamba poetry uv pipenv pdm hatch rye
    pixi call start screen powershell pwsh
""")
"""They run the command in their last words."""

OTHER = _names("""
    pip pip3 git wget curl aria2c unzip zip tar 7z gzip gunzip rm rmdir rd del erase cp copy xcopy robocopy mv
    move ren ln chmod chown sed rsync scp rclone aws gsutil gdown hf huggingface-cli wandb tensorboard kill
    pkill killall taskkill tasklist apt apt-get yum brew choco winget npm shutdown reboot poweroff sync fuser
    lsof pgrep ps sha256sum md5sum jq
    say osascript afplay aplay paplay spd-say beep open xdg-open mail sendmail
    sysctl runpodctl vastai gcloud az modal dos2unix systemctl swapon swapoff ldconfig dpkg snap
    mount umount ffmpeg convert magick notify-send remove-item copy-item
    move-item rename-item invoke-webrequest set-content add-content out-file tee-object explorer setx virtualenv
    get-process stop-process stop-computer get-filehash expand-archive
""")
"""Other work; none can change a variable of the script."""

SHELLS = frozenset(["cmd", "bash", "sh", "zsh"])
"""Interactive shells, where they have no command."""

LEAVING = frozenset(["exit", "return", "throw"])

SOURCED = _names("""
    activate activate.bat activate.ps1 activate.sh activate.csh activate.fish .bashrc .bash_profile .profile
    .zshrc profile conda.sh mamba.sh setvars.sh vcvars64.bat vcvarsall.bat deactivate deactivate.bat conda
    conda.bat bashrc modules.sh conda-hook.ps1
""")
"""Files that set up an environment."""
