#!/usr/bin/env bash
# Makes sure that what the tests need from the operating system is there: Chromium, a font, a C compiler, network namespaces, bwrap.
set -euo pipefail

missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
  || missing+=(chromium)
if command -v fc-list >/dev/null; then
  [ -n "$(fc-list 2>/dev/null | head -n 1)" ] || missing+=(fonts-dejavu-core)
else
  missing+=(fonts-dejavu-core)
fi
command -v ip >/dev/null || missing+=(iproute2)
command -v bwrap >/dev/null || missing+=(bubblewrap)
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
[ "${#missing[@]}" -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
else
  {
    echo "the tests need these packages of the operating system: ${missing[*]}"
    echo
    echo "hint: sudo apt-get install --no-install-recommends ${missing[*]}"
  } >&2
  exit 1
fi
