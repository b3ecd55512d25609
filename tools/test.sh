#!/usr/bin/env bash
# Make the environment and run every check: style, types, layers, tests. Each stage runs even if
# an earlier one failed; the exit status is that of the whole. Arguments go to pytest:
#
#   bash tools/test.sh                       everything but the slow tests
#   bash tools/test.sh -m slow               the slow tests instead
#   bash tools/test.sh tests/rules -k conv   some of them
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root" || exit 1
bash tools/venv.sh || exit 1
bin="${FXPRUNE_VENV:-$root/.venv}/bin"

# Two test processes of one thread each beat one process of two threads.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONUNBUFFERED=1

summary=()
failed=0

stage() {
    local name="$1" started=$SECONDS status=0
    shift
    printf '\n== %s ==\n' "$name"
    "$@" || status=$?
    local verdict=ok
    if ((status != 0)); then
        verdict="FAILED ($status)"
        failed=1
    fi
    summary+=("$(printf '%-12s %-12s %4d s' "$name" "$verdict" $((SECONDS - started)))")
}

stage "ruff check" "$bin/ruff" check .
stage "ruff format" "$bin/ruff" format --check .
stage "mypy" "$bin/mypy"
stage "layers" "$bin/lint-imports" --no-logo
stage "pytest" "$bin/python" -m pytest -n 2 -m "not slow" "$@"

printf '\n== summary ==\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
