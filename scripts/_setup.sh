# The environment that everything here runs in: finds Python, makes .venv, installs what is locked. Sourced.
# shellcheck shell=bash
#
#   biosam2_setup        what the server needs (requirements.lock)
#   biosam2_setup dev    and what the tests and linters need (requirements-dev.lock)
#   biosam2_pacs         Orthanc, the PACS that the tests talk to, from the system's packages
#   biosam2_browser      Chromium, in which they look at OHIF, from there too
#
# BIOSAM2_VENV    where the environment lives (default: .venv in the repository)
# BIOSAM2_PYTHON  the Python to make it with (default: the first suitable one on PATH)

biosam2_repo="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
biosam2_venv="${BIOSAM2_VENV:-$biosam2_repo/.venv}"
biosam2_venv="${biosam2_venv%/}"
[[ "$biosam2_venv" == /* ]] || biosam2_venv="$PWD/$biosam2_venv"
# A link to an environment means that one: by another name it would look moved, and be emptied.
[[ ! -L "$biosam2_venv" || ! -d "$biosam2_venv" ]] || biosam2_venv="$(cd -- "$biosam2_venv" && pwd -P)"

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# MLflow, the registry of versions, reports on its use unless it is told not to.
export MLFLOW_DISABLE_TELEMETRY="${MLFLOW_DISABLE_TELEMETRY:-true}"

# Prints the path of a Python that the locked packages run on.
biosam2_find_python() {
    local candidate
    for candidate in "${BIOSAM2_PYTHON:-}" python3.11 python3 python3.12 python; do
        if [[ -n "$candidate" ]] && biosam2_python_fits "$candidate"; then
            command -v -- "$candidate"
            return
        fi
    done
    fail "Python 3.11 or 3.12 is needed and none was found on PATH: install Python 3.11, then run this again."
}

biosam2_python_fits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' </dev/null >/dev/null 2>&1
}

# Prints what an environment set up now would be stamped with: it changes with Python, the place and the locks.
biosam2_fingerprint() { # PYTHON LOCK...
    "$1" -I -S -c '
import hashlib, sys
seen = hashlib.sha256(repr((sys.version_info[:2], sys.argv[1])).encode())
for path in sys.argv[2:]:
    with open(path, "rb") as lock:
        seen.update(lock.read())
print(seen.hexdigest())' "$biosam2_venv" "${@:2}"
}

biosam2_is_set_up() { # STAMP LOCK...
    local stamp="$biosam2_venv/$1"
    [[ -f "$stamp" && -x "$biosam2_venv/bin/python" ]] &&
        [[ "$(cat -- "$stamp")" == "$(biosam2_fingerprint "$biosam2_venv/bin/python" "${@:2}" 2>/dev/null)" ]]
}

biosam2_make_venv() {
    local python free_gb
    python="$(biosam2_find_python)" || exit 1

    if [[ -e "$biosam2_venv" && ! -f "$biosam2_venv/pyvenv.cfg" && -n "$(ls -A -- "$biosam2_venv")" ]]; then
        fail "$biosam2_venv exists and is not a Python environment: move it away, or set BIOSAM2_VENV to another folder."
    fi
    # An environment breaks when it is moved or when its Python goes: start such a one afresh.
    local -a fresh=()
    if [[ -f "$biosam2_venv/pyvenv.cfg" ]]; then
        if ! biosam2_python_fits "$biosam2_venv/bin/python" ||
            ! grep -qsF -- "$biosam2_venv" "$biosam2_venv/bin/activate"; then
            fresh=(--clear)
        fi
    fi
    if [[ ! -d "$biosam2_venv/lib" || ${#fresh[@]} -gt 0 ]]; then
        free_gb="$(df -Pk -- "$(dirname -- "$biosam2_venv")" | awk 'NR == 2 { print int($4 / 1000000) }')"
        if ((free_gb < 12)); then
            fail "Setting up needs about 12 GB of free disk space at $biosam2_venv, and there are $free_gb GB."
        fi
    fi
    if [[ ${#fresh[@]} -gt 0 ]] || ! "$biosam2_venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv ${fresh[@]+"${fresh[@]}"} -- "$biosam2_venv" ||
            fail "Python at $python could not make an environment: on Debian and Ubuntu, install python3-venv (or python3.11-venv), then run this again."
    fi
}

# The locks name every package, so nothing is resolved here (--no-deps). sam2 and three small ones are published as
# source only; sam2 asks for torch to build, which an isolated build would download a second time (gigabytes), so they
# are all built with the locked setuptools instead, and sam2 without its optional CUDA kernel.
biosam2_install() { # LOCK
    local -a pip=("$biosam2_venv/bin/python" -m pip --disable-pip-version-check install --no-user --no-deps)
    local setuptools="$biosam2_venv/.setuptools.lock"
    awk '/^setuptools==/ { found = 1 } found { print } found && !/\\$/ { exit }' "$biosam2_repo/requirements.lock" >"$setuptools"
    "${pip[@]}" --quiet -r "$setuptools" &&
        SAM2_BUILD_CUDA=0 "${pip[@]}" --no-build-isolation -r "$biosam2_repo/$1" ||
        fail "Setting up did not finish: the lines above say why. Run the same command again to go on from there."
}

biosam2_setup() { # [dev]
    local runtime=(.biosam2-stamp "$biosam2_repo/requirements.lock")
    local development=(.biosam2-stamp-dev "$biosam2_repo/requirements.lock" "$biosam2_repo/requirements-dev.lock")
    local dev="${1:-}"

    if ! biosam2_is_set_up "${runtime[@]}" || { [[ -n "$dev" ]] && ! biosam2_is_set_up "${development[@]}"; }; then
        mkdir -p -- "$(dirname -- "$biosam2_venv")"
        exec 9>"$biosam2_venv.lock"
        if command -v flock >/dev/null && ! flock -n 9; then
            say "Another set-up is at work in $biosam2_venv; waiting for it to end."
            flock 9
        fi
        biosam2_make_venv
        if ! biosam2_is_set_up "${runtime[@]}"; then
            say "Setting up: about 3 GB to download and 9 GB on disk, a few minutes. This happens once."
            rm -f -- "$biosam2_venv/.biosam2-stamp" "$biosam2_venv/.biosam2-stamp-dev"
            biosam2_install requirements.lock
            "$biosam2_venv/bin/python" -m pip --disable-pip-version-check check ||
                fail "The installed packages do not fit together: remove $biosam2_venv and run this again."
            biosam2_fingerprint "$biosam2_venv/bin/python" "${runtime[@]:1}" >"$biosam2_venv/${runtime[0]}"
        fi
        if [[ -n "$dev" ]] && ! biosam2_is_set_up "${development[@]}"; then
            say "Setting up the tests and linters: about 0.2 GB more to download and 1 GB on disk."
            biosam2_install requirements-dev.lock
            biosam2_fingerprint "$biosam2_venv/bin/python" "${development[@]:1}" >"$biosam2_venv/${development[0]}"
        fi
        exec 9>&-
        say "Set up in $biosam2_venv."
    fi
    # The programs of the environment are called by name: dcmqi's itkimage2segimage by MONAI Label, for one.
    export PATH="$biosam2_venv/bin:$PATH"
}

# What no Python package brings: Debian's packages, for the demo PACS and some of the tests. Without them the other
# tests run all the same, and those that need them fail and say so.
biosam2_apt() { # WHAT PACKAGE...
    local what="$1"
    shift
    local by_hand="Some tests and scripts/start --pacs need $what, and fail without it: install it (on Debian and Ubuntu: apt-get install $*), then run this again."
    local -a root=()
    if [[ "$(id -u)" != 0 ]]; then
        root=(sudo)
        [[ -t 0 ]] || root+=(-n)
    fi
    if ! command -v apt-get >/dev/null || { ((${#root[@]})) && ! command -v sudo >/dev/null; }; then
        say "$by_hand" >&2
        return
    fi
    say "Installing $what. This happens once."
    export DEBIAN_FRONTEND=noninteractive
    local -a install=(${root[@]+"${root[@]}"} apt-get -qq -y install "$@")
    if ! { "${install[@]}" || { ${root[@]+"${root[@]}"} apt-get -qq update && "${install[@]}"; }; } </dev/null >/dev/null; then
        say "$by_hand" >&2
        return
    fi
    if [[ " $* " == *" orthanc "* ]]; then
        # The package starts a service that listens to the whole network. The tests start their own, which does not.
        ${root[@]+"${root[@]}"} service orthanc stop >/dev/null 2>&1 || true
    fi
}

# The PACS that the tests talk to, and that scripts/start --pacs starts.
biosam2_pacs() {
    if ! PATH="$PATH:/usr/sbin" command -v Orthanc >/dev/null || [[ ! -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ]]; then
        biosam2_apt "Orthanc with its DICOMweb plugin" orthanc orthanc-dicomweb
    fi
}

# The browser that OHIF is tested in.
biosam2_browser() {
    if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
        biosam2_apt "a browser (Chromium, about 300 MB on disk)" chromium
    fi
}
