#!/bin/sh
# need-tools.sh COMMAND:PACKAGE ... - the commands that tests compare with must be there.
# As root they are installed by Debian's package manager; else the missing are named.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=
for pair; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of packages
    exec apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi
echo "the tests need these packages; install them first:$missing" >&2
exit 1
