#!/bin/sh
# Build a wheel from the tree, install it into an empty environment, and away from the tree train there, and write a plugin
# whose tests pass.
set -eu
python=$1
tree=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m build --no-isolation --outdir "$folder/dist" . > "$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }
"$python" -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
pip install --quiet --no-deps --requirement requirements/run.lock
"$folder/venv/bin/python" -c 'import torch' 2>/dev/null || pip install --quiet "$(grep '^torch==' requirements/run.lock)"
pip install --quiet --no-deps "$folder"/dist/*.whl
cd "$folder"
"$folder/venv/bin/python" -c 'import ddn_core, sys; sys.exit(not ddn_core.__file__.startswith(sys.prefix) and "ddn_core is not the wheel")'
"$folder/venv/bin/ddn" plugins > /dev/null
"$folder/venv/bin/ddn" train "$tree/docs/examples/digits.toml" --set training.epochs=2 --out run
for file in config.resolved.json metrics.jsonl checkpoint.pt run.png; do
    test -s "run/$file" || { echo "wheel: ddn train wrote no $file"; exit 1; }
done
"$folder/venv/bin/ddn" new-plugin acme > /dev/null
grep -E '^(pytest|iniconfig)==' "$tree/requirements/dev.lock" > pytest.txt
pip install --quiet --no-deps --requirement pytest.txt
pip install --quiet --no-deps --no-build-isolation ./ddn-acme
"$folder/venv/bin/python" -m pytest -q ddn-acme/tests > tests.log || { cat tests.log; exit 1; }
"$folder/venv/bin/ddn" plugins --broken > /dev/null
cat > acme.toml <<'END'
[[groups]]
params = ["*"]
criterion = { kind = "acme/signal-to-noise", ratio = 1.0 }
damping = { kind = "acme/spectral-floor", fraction = 0.1 }
END
"$folder/venv/bin/ddn" replay digits acme.toml --out replay > /dev/null
test -s replay/report.html && grep -q '^acme,170,' replay/replay.csv || { echo "wheel: ddn replay of a plugin's strategies wrote no figures"; exit 1; }
echo "wheel: built, installed into an empty environment, trained there; a new plugin was written, passes its tests, and is replayed"
