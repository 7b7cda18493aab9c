#!/bin/sh
# Resolve the extras `book`, `dev`, `quant`, `distributed`, `evaluate`, `logging` and `serve` for Python 3.11–3.13 and write constraints.txt, without torch (chosen by the
# reader) and without the address of any registry. The lock file itself stays out of the repository.
set -eu
venv=$1
"$venv/bin/python" -m pip install --quiet uv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp pyproject.toml README.md LICENSE "$work"
mkdir "$work/myllm" "$work/exercises" "$work/solutions"
: >"$work/myllm/__init__.py"
uv=$(cd "$venv/bin" && pwd)/uv
(cd "$work" && "$uv" lock --quiet && "$uv" export --quiet --no-hashes --no-emit-project --no-annotate --no-header \
    --extra book --extra dev --extra quant --extra distributed --extra evaluate --extra logging --extra serve --prune torch >constraints.txt)
mv "$work/constraints.txt" constraints.txt
echo "constraints.txt: $(wc -l <constraints.txt) packages"
