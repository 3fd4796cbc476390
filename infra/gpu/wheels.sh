#!/bin/sh
# Fetch the wheels of requirements.txt for a GPU machine without network (CPython 3.12, x86-64), where they are installed
# with: python -m pip install --no-index --no-deps --target SITE FOLDER/*.whl; export PYTHONPATH=SITE
# Usage: infra/gpu/wheels.sh FOLDER [PYTHON]
set -eu
folder=${1:?usage: infra/gpu/wheels.sh FOLDER [PYTHON]}
python=${2:-python3}
platforms=
for version in 2_28 2_27 2_24 2_17; do platforms="$platforms --platform manylinux_${version}_x86_64"; done
rm -f "$folder"/*.whl
# shellcheck disable=SC2086  # one word each
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  $platforms --platform manylinux2014_x86_64 --dest "$folder" --requirement "$(dirname "$0")/requirements.txt"
ls -l "$folder"
