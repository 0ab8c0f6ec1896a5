"""The scripts a person starts with: what they say to mistakes, and what they pass on to MONAI Label."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from programs import REPOSITORY, free_port

# Stands in for the environment's Python. MONAI Label's arguments go into a file; its web server is a stand-in
# that serves the folder `www`, if there is one. Nothing is installed.
PYTHON = """#!/bin/sh
here="$(dirname "$0")/../.."
case "$1 $2" in
"-m monailabel.main")
    printf '%s\\n' "$@" >"$here/monailabel.txt"
    if [ -d "$here/www" ]; then
        exec {real} -m http.server --directory "$here/www" --bind 127.0.0.1 "$PORT" 2>/dev/null
    fi
    exit 0
    ;;
"-m pytest") printf '%s\\n' "$@" >"$here/pytest.txt"; exit 0 ;;
"-m pip")
    [ "$3" = --version ] && exit 0
    echo "$@" >>"$here/pip.txt"
    echo "no network" >&2
    exit 1
    ;;
esac
exec {real} "$@"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the scripts in a folder with a space in its name, set up with a stand-in for Python."""
    checkout = tmp_path / "my checkout"
    shutil.copytree(REPOSITORY / "scripts", checkout / "scripts")
    for lock in REPOSITORY.glob("requirements*.lock"):
        shutil.copy(lock, checkout)
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "lib").mkdir()
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "activate").write_text(f"VIRTUAL_ENV='{venv}'\n")
    python = venv / "bin" / "python"
    python.write_text(PYTHON.format(real=f"'{sys.executable}'"))
    python.chmod(0o755)
    locks = ["requirements.lock", "requirements-dev.lock"]
    fingerprint = 'source scripts/_setup.sh; biosam2_fingerprint "$biosam2_venv/bin/python" "$@"'
    for stamp, count in ((".biosam2-stamp", 1), (".biosam2-stamp-dev", 2)):
        command = ["bash", "-c", fingerprint, "bash", *locks[:count]]
        (venv / stamp).write_bytes(subprocess.check_output(command, cwd=checkout, env=clean_environment()))
    return checkout


def clean_environment() -> dict[str, str]:
    """This process's environment without the variables that the scripts heed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BIOSAM2_")}


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script from a folder that is not its own."""
    return subprocess.run(
        [str(script), *arguments],
        cwd=script.parents[2],
        env=clean_environment() | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "eighty"], "--port must be a number from 1 to 65535, not 'eighty'."),
        (["--port", "0"], "--port must be a number from 1 to 65535, not '0'."),
        (["--port=65536"], "--port must be a number from 1 to 65535, not '65536'."),
        (["--port"], "--port needs a value."),
        (["--studies", "no such folder"], "--studies: there is no folder 'no such folder'."),
        (["--studies", sys.executable], f"--studies: '{sys.executable}' is a file, not a folder."),
        (
            ["--studies", "ftp://archive"],
            "--studies takes a folder or an http(s) address, not 'ftp://archive'.",
        ),
        (["--checkpoint", "models/lost.pt"], "--checkpoint: there is no file 'models/lost.pt'."),
        (["--studdies", "x"], "'--studdies' is not an option of scripts/start"),
    ],
)
def test_start_names_the_wrong_argument_before_it_installs_anything(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    done = run(REPOSITORY / "scripts" / "start", *arguments, BIOSAM2_VENV=str(tmp_path / "venv"))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not (tmp_path / "venv").exists()


def test_start_says_that_the_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(REPOSITORY / "scripts" / "start", "--port", port, BIOSAM2_VENV=str(tmp_path / "venv"))
    assert done.returncode == 2
    assert f"Port {port} is already in use" in done.stderr


def test_start_help_lists_every_option(tmp_path: Path) -> None:
    done = run(REPOSITORY / "scripts" / "start", "--help", BIOSAM2_VENV=str(tmp_path / "venv"))
    assert done.returncode == 0
    for option in ("--studies", "--port", "--host", "--checkpoint", "-- "):
        assert option in done.stdout


def test_start_passes_everything_on_to_monai_label_word_for_word(checkout: Path) -> None:
    studies, checkpoint = checkout / "my scans", checkout / "my model.pt"
    studies.mkdir()
    checkpoint.touch()
    port = str(free_port())
    done = run(
        checkout / "scripts" / "start",
        *("--studies", str(studies), "--port", port, "--checkpoint", str(checkpoint)),
        *("--", "--conf", "labels", "left kidney,spleen"),
    )
    assert done.returncode == 0, done.stderr
    passed = (checkout / "monailabel.txt").read_text().splitlines()
    assert passed == [
        *("-m", "monailabel.main", "start_server", "--app", str(checkout / "apps" / "biosam2")),
        *("--studies", str(studies), "--host", "127.0.0.1", "--port", port),
        *("--conf", "checkpoint", str(checkpoint), "--conf", "labels", "left kidney,spleen"),
    ]


def test_start_says_what_to_do_once_the_server_answers(checkout: Path) -> None:
    (checkout / "www" / "info").mkdir(parents=True)
    port = str(free_port())
    server = subprocess.Popen(
        [str(checkout / "scripts" / "start"), "--port", port],
        env=clean_environment() | {"PORT": port},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        said = ""
        for line in server.stdout:
            said += line
            if "Stop it with Ctrl-C" in line:
                break
    finally:
        server.kill()
        server.wait(timeout=30)
    assert f"BioSAM-2 is ready at http://127.0.0.1:{port}" in said
    assert server.stdout.read().strip() == ""

    # The example click is a real one: dark fluid in the foreground, bright white matter in the background.
    import nibabel

    example = json.loads(re.search(r"'params=({.*})'", said).group(1))  # type: ignore[union-attr]
    brain = nibabel.load(checkout / "demo" / "brain_t1.nii.gz").get_fdata()
    assert brain[tuple(example["foreground"][0])] < 100
    assert brain[tuple(example["background"][0])] > 200


def test_a_second_run_installs_nothing(checkout: Path) -> None:
    done = run(checkout / "scripts" / "test", "-k", "two words")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    passed_on = (checkout / "pytest.txt").read_text().splitlines()
    assert passed_on == ["-m", "pytest", "-n", "2", "-k", "two words"]
    assert not (checkout / "pip.txt").exists()


def test_an_environment_that_is_linked_to_is_used_as_it_is(checkout: Path) -> None:
    """As a second work tree does it: by the name of the link it would look moved, and be made anew."""
    other = checkout.parent / "other checkout"
    shutil.copytree(checkout, other, ignore=shutil.ignore_patterns(".venv"))
    (other / ".venv").symlink_to(checkout / ".venv")
    done = run(other / "scripts" / "test")
    assert done.returncode == 0, done.stderr
    assert not (checkout / "pip.txt").exists() and (checkout / ".venv" / "lib").is_dir()


def test_an_install_that_fails_is_said_plainly_and_tried_again_next_time(checkout: Path) -> None:
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    for attempt in (1, 2):
        done = run(checkout / "scripts" / "test")
        assert done.returncode == 1
        assert "Setting up: about" in done.stdout
        assert "Setting up did not finish" in done.stderr
        assert len((checkout / "pip.txt").read_text().splitlines()) == attempt
        assert not (checkout / ".venv" / ".biosam2-stamp").exists()


def test_set_up_leaves_a_folder_alone_that_is_no_environment(checkout: Path) -> None:
    papers = checkout / "papers"
    papers.mkdir()
    (papers / "thesis.txt").write_text("mine")
    done = run(checkout / "scripts" / "test", BIOSAM2_VENV=str(papers))
    assert done.returncode == 1
    assert f"{papers} exists and is not a Python environment" in done.stderr
    assert [path.name for path in papers.iterdir()] == ["thesis.txt"]


def test_set_up_says_that_python_is_missing(tmp_path: Path, checkout: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "basename", "mkdir", "cat", "ls"):
        (tools / name).symlink_to(shutil.which(name) or name)
    done = run(checkout / "scripts" / "test", PATH=str(tools), BIOSAM2_VENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "Python 3.11 or 3.12 is needed and none was found on PATH: install Python 3.11, then run this again."
    )


# Stands in for a machine: its commands are functions, and Orthanc is not there.
MACHINE = """
source "$1/scripts/_setup.sh"
command() { case "$2" in Orthanc) return 1 ;; apt-get) $has_apt ;; sudo) $has_sudo ;; esac; }
id() { echo "$user"; }
sudo() { "$@"; }
apt-get() { echo "apt-get $*" >&3; $apt; }
service() { echo "service $*" >&3; }
biosam2_pacs 3>&2
echo "and on"
"""


def pacs(**machine: str) -> subprocess.CompletedProcess[str]:
    given = {"has_apt": "true", "has_sudo": "true", "user": "0", "apt": "true", **machine}
    return subprocess.run(
        ["bash", "-euc", MACHINE, "bash", str(REPOSITORY)],
        env=clean_environment() | given,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_pacs_of_the_tests_is_installed_and_its_service_stopped() -> None:
    done = pacs()
    assert done.returncode == 0, done.stderr
    assert "apt-get -qq -y install orthanc orthanc-dicomweb" in done.stderr
    assert done.stderr.strip().endswith("service orthanc stop")


@pytest.mark.parametrize(
    "machine", [{"apt": "false"}, {"has_apt": "false"}, {"user": "7", "has_sudo": "false"}]
)
def test_a_pacs_that_cannot_be_installed_is_said_and_the_other_tests_run(machine: dict[str, str]) -> None:
    done = pacs(**machine)
    assert done.returncode == 0
    assert "need Orthanc" in done.stderr and "apt-get install orthanc orthanc-dicomweb" in done.stderr
    assert "service" not in done.stderr
    assert done.stdout.strip().endswith("and on")


def demo_study(folder: Path) -> str:
    script = str(REPOSITORY / "scripts" / "demo_study")
    return subprocess.check_output([sys.executable, script, str(folder)], text=True)


def test_the_demo_study_is_made_once_and_leaves_labels_alone(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    assert "brain_t1.nii.gz" in demo_study(demo)
    images = {path.name: path.stat().st_mtime_ns for path in demo.iterdir()}
    assert set(images) == {"brain_t1.nii.gz", "ct_spine.nii.gz", "retina.jpg", "histology.png"}

    label = demo / "labels" / "final" / "brain_t1.nii.gz"
    label.parent.mkdir(parents=True)
    label.write_bytes(b"a person's work")
    assert demo_study(demo) == ""
    assert {path.name: path.stat().st_mtime_ns for path in demo.iterdir() if path.is_file()} == images

    (demo / "retina.jpg").unlink()
    assert "retina.jpg" in demo_study(demo)
    assert label.read_bytes() == b"a person's work"
    assert (demo / "brain_t1.nii.gz").stat().st_mtime_ns == images["brain_t1.nii.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_the_lock_files_name_no_place_to_download_from() -> None:
    for lock in REPOSITORY.glob("requirements*.lock"):
        text = lock.read_text()
        assert "==" in text
        assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", text)
