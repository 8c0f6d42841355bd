#!/usr/bin/env bash
# Installs on a node what jobs need, once for each set of versions:
#   install.sh FOLDER VENV
# FOLDER holds constraints.txt, pyproject.toml and requirements.py. An image of a machine on which it has run saves the
# minutes that it takes.
set -euo pipefail

folder=$1
venv=$2
wanted=$(cat "$folder/constraints.txt" "$folder/pyproject.toml" "$folder/requirements.py" | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$venv/.installed" 2> /dev/null)" = "$wanted" ]; then
  echo "$venv has these versions already"
  exit 0
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "install.sh: python3 must be 3.11 or newer, got $(python3 --version); choose another DVT_AMI" >&2
  exit 1
}
python3 -c 'import ensurepip' 2> /dev/null || {
  sudo apt-get update -q
  sudo apt-get install -qy --no-install-recommends python3-venv
}
rm -rf "$venv"
python3 -m venv "$venv"
python3 "$folder/requirements.py" "$folder/pyproject.toml" > "$folder/requirements.txt"
"$venv/bin/python" -m pip install --quiet --no-input --no-cache-dir -c "$folder/constraints.txt" -r "$folder/requirements.txt"
echo "$wanted" > "$venv/.installed"  # the last step: an installation that was cut off is begun again
