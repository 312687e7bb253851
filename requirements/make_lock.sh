#!/bin/sh
# Pin the newest versions of everything: requirements/run.lock (library and `ddn train`) and dev.lock (tests and docs too).
# torchvision, which BackPACK requires and nothing here imports, is left out: beside a CPU build of torch it does not import.
set -eu
python=$1
torch=2.13.0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
extra() { "$folder/bin/python" -c 'import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print("\n".join(project[sys.argv[1]]))' "$1" > "$folder/$1.txt"; }
lock() {
    {
        echo "# Made by \`make lock\`. Installed with --no-deps: torchvision, which BackPACK requires and nothing here imports, stays out."
        pip freeze --exclude-editable | sed 's/^\(torch==[^+]*\)+.*/\1/'
    } > "requirements/$1.lock"
}
pip install --quiet "torch==$torch"
pip install --quiet --no-deps 'backpack-for-pytorch>=1.7,<2'
extra train
pip install --quiet einops unfoldNd pluggy 'pydantic<3' hatchling editables --requirement "$folder/train.txt"
lock run
for name in test docs lightning tensorboard; do
    extra "$name"
    pip install --quiet --requirement "$folder/$name.txt"
done
lock dev
