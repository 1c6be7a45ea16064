#!/bin/sh
# What `make bench-peers` does: install the peers in a place of their own, make models and corpus once, measure.
#
# ROUNDS=3 runs of each contestant; TUNED=1 adds the peers with a tuned allocator.
set -eu
cd "$(dirname "$0")"
[ -d "${HOME:-/nonexistent}/.cargo/bin" ] && PATH="$PATH:$HOME/.cargo/bin"

say() { echo "bench-peers: $*" >&2; }
python=.venv/bin/python

stamp=$(sha256sum <requirements.txt | cut -d' ' -f1)
if [ "$(cat .venv/.trawl-stamp 2>/dev/null)" != "$stamp" ]; then
	say "installing PyTorch, Ray and Daft into bench/peers/.venv (5.7 GB)"
	[ -x $python ] || "${PYTHON:-python3}" -m venv .venv
	$python -m pip --disable-pip-version-check install --quiet -r requirements.txt >&2
	echo "$stamp" >.venv/.trawl-stamp
fi

say "building trawl-worker"
(cd ../.. && cargo build --release --workspace --bin trawl-worker --example bare_loop)
target=${CARGO_TARGET_DIR:-target}
case "$target" in /*) ;; *) target=../../$target ;; esac

for model in tiny lite0; do
	# Made again when the program that makes it has changed.
	[ models/$model.pt -nt models.py ] || $python -B models.py --out models --only $model
done
$python -B corpus.py --out corpus/small --n 2000

# Both model sizes, and a job so small that start-up is all of it.
status=0
for case in tiny:2000 lite0:600 tiny:20; do
	model=${case%:*} limit=${case#*:}
	$python -B run.py --images corpus/small --model "models/$model.pt" --limit "$limit" --rounds "${ROUNDS:-3}" \
		--trawl "$target/release/trawl-worker" --results "out/$model-$limit.json" ${TUNED:+--tuned} || status=1
done
exit $status
