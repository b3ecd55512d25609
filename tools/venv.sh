#!/usr/bin/env bash
# Make (or reuse) the virtual environment of this checkout and install fxprune into it, with
# everything its tests and its demo need. A second run finds nothing to do and takes a second.
#
#   FXPRUNE_VENV    where the environment lies (default: .venv in the checkout)
#   FXPRUNE_PYTHON  the Python that makes it (default: python3.11, else python3; 3.11 or newer)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${FXPRUNE_VENV:-$root/.venv}"
stamp="$venv/.fxprune-stamp"

say() { printf 'venv: %s\n' "$*"; }
fail() { printf 'venv: %s\n' "$*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${FXPRUNE_PYTHON:-python3.11 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found (tried ${FXPRUNE_PYTHON:-python3.11, python3}); set FXPRUNE_PYTHON"
}

# The stamp says what was installed: this pyproject.toml and these packages of this checkout.
wanted() {
    "$venv/bin/python" - "$root" <<'PY'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
digest = hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest()
packages = sorted(file.parent.name for file in root.glob("*/__init__.py"))
print(digest, *packages, sys.version_info[:3], root)
PY
}

if [[ ! -x "$venv/bin/python" ]] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python="$(find_python)"
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv" || fail "python -m venv failed (Debian and Ubuntu keep it in python3-venv)"
fi

if [[ -f "$stamp" && "$(cat "$stamp")" == "$(wanted)" ]]; then
    say "$venv is up to date"
    exit 0
fi

rm -f "$stamp"
say "installing fxprune[dev] into $venv (PyTorch is large: a new environment takes some minutes)"
started=$SECONDS
# torch and torchvision are asked for together, so that pip takes two that fit each other.
"$venv/bin/python" -m pip install -qq --no-input --disable-pip-version-check \
    torch torchvision --editable "$root[dev]"
wanted >"$stamp"
say "ready after $((SECONDS - started)) s"
