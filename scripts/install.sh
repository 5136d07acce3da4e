#!/usr/bin/env bash
# Installs peerless into .venv, and with --dev what its tests need. Does nothing if that is done already.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "peerless: $1" >&2
    exit 2
}

extra="" wanted=(torch)
case "${1:-}" in
    "") ;;
    --dev) extra="[dev]" wanted=(torch torchvision) ;;
    -h | --help) echo "Usage: scripts/install.sh [--dev]" && exit 0 ;;
    *) fail "scripts/install.sh knows --dev only, not $1" ;;
esac

[ "$(uname -s)" = Linux ] || fail "needs Linux, this is $(uname -s): use a Linux machine or a virtual one"
getconf GNU_LIBC_VERSION >/dev/null 2>&1 || fail "needs glibc, this system has another C library: use Debian, Ubuntu, Fedora …"

python=""
for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python=$candidate && break
    fi
done
[ -n "$python" ] || fail "needs Python 3.11, 3.12 or 3.13 as python3: install it (apt-get install python3)"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "needs Python's venv module: apt-get install python3-venv"

stamp=.venv/installed$extra
# the folder, too: a virtual environment does not survive being moved
sum=$(sha256sum pyproject.toml scripts/install.sh | sha256sum)$PWD
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ] && exit 0

[ -w . ] || fail "cannot write to $PWD: clone peerless into a folder of yours"
free_mib=$(df -Pm . | awk 'NR == 2 { print $4 }')
[ "$free_mib" -ge 3000 ] || fail "needs 3 GB of free disk here, there are $free_mib MB: make room"
memory_mib=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
[ "$memory_mib" -ge 2000 ] || fail "needs 2 GB of free memory, there are $memory_mib MB: end something, or add swap"

echo "installing peerless into .venv (some minutes the first time)" >&2
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
pip_install() {
    .venv/bin/python -m pip --quiet --disable-pip-version-check install "$@"
}
if ! .venv/bin/python -c "import $(IFS=, && echo "${wanted[*]}")" 2>/dev/null; then
    # the CPU build is a tenth of the CUDA one's size, and torchvision must come from where torch does
    cpu_index=https://download.pytorch.org/whl/cpu
    if ! pip_install --timeout 5 --retries 0 --index-url "$cpu_index" "${wanted[@]}" 2>/dev/null; then
        [ "$free_mib" -ge 8000 ] || fail "PyTorch's CPU index cannot be reached, and the CUDA build needs 8 GB of free disk"
        echo "PyTorch's CPU index cannot be reached: taking the CUDA build from the package index" >&2
        pip_install "${wanted[@]}" || fail "pip cannot install PyTorch (above): check the network, or PIP_INDEX_URL"
    fi
fi
pip_install --editable ".$extra" || fail "pip cannot install peerless (above): check the network, or PIP_INDEX_URL"
echo "$sum" >"$stamp"
