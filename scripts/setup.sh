#!/usr/bin/env bash
# Create or update the virtual environment: setup.sh FOLDER. Called by `make setup`.
# PYTHON names the interpreter; by default the first one of at least 3.11 is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
extras="sim,build,oracle,onnx,demo,dev"

fail() {
    printf 'emberline setup: %s\n' "$@" >&2
    exit 1
}

recent_enough() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        recent_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of at least 3.11"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if recent_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python of at least 3.11 found." \
        "On Debian 12, Ubuntu 24.04 or newer:  sudo apt-get install python3 python3-venv python3-dev"
}

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    python=$(find_python)
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$("$python" --version) cannot make virtual environments: its venv module is not installed." \
            "On Debian or Ubuntu:  sudo apt-get install python3-venv" \
            "(python3.12-venv and so on for an interpreter other than the system's)"
    echo "creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

echo "installing emberline and what it needs into $venv (from PyPI, a few minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" ||
    fail "pip could not install the dependencies named in pyproject.toml (see above)."
