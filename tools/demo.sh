#!/usr/bin/env bash
# Make the environment, fetch the real ImageNet MobileNetV2, prune it to half its MACs, export it
# and print what changed, measured here and now. Files are left in demo-out/. Arguments go to
# tools/demo.py (see --help).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
bash tools/venv.sh
exec "${FXPRUNE_VENV:-$root/.venv}/bin/python" tools/demo.py "$@"
