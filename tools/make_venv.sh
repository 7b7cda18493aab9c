#!/bin/sh
# Make an environment and install the course into it: tools/make_venv.sh .venv torch==2.13.0
set -eu
venv=$1 torch=$2
started=$(date +%s)

if [ ! -x "$venv/bin/python" ]; then
    fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$python" -c "$fits" 2>/dev/null; then found=$python; break; fi
    done
    if [ -z "${found:-}" ]; then
        echo "MyLLM needs Python 3.11, 3.12 or 3.13: install one and run make again, or name it: make book PYTHON=/path/to/python3.12" >&2
        exit 1
    fi
    printf '\n== Making %s with %s\n' "$venv" "$("$found" --version)"
    "$found" -m venv "$venv" || {
        echo "Python could not make an environment. On Debian or Ubuntu: sudo apt install python3-venv" >&2
        exit 1
    }
fi

# PyTorch first and alone: the other way round pip brings gigabytes of CUDA libraries to Linux machines without a GPU.
printf '\n== Installing %s (a few hundred MB the first time)\n' "$torch"
"$venv/bin/python" -m pip install $torch
printf '\n== Installing the course and its tools\n'
"$venv/bin/python" -m pip install -c constraints.txt -e ".[book,dev,quant,serve]"
printf '\n== Installed in %s s\n' "$(($(date +%s) - started))"
