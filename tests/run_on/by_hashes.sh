#!/bin/bash
# The tests of run_on once more, with a keeper that cannot watch its guest being written to, as on a
# kernel before 6.7: it has to compare.
#
#   by_hashes.sh BUILD TEST
set -euo pipefail
build=$1 test=$2
# The programs find one another by where they lie. In the build, to be linked there.
programs=$(mktemp -d "$build/by-hashes.XXXXXX")
trap 'rm -rf "$programs"' EXIT
cp -rl "$build/bin" "$programs/bin"
mkdir -p "$programs/libexec"
cp -rl "$build/libexec/telefork" "$programs/libexec/telefork"
keeper=$programs/libexec/telefork/telefork-keeper
mv "$keeper" "$keeper.real"
printf '#!/bin/sh\nexec "$0.real" --pagemap entries "$@"\n' >"$keeper"
chmod +x "$keeper"

export TELEFORK_TEST_TELEPAD=$programs/bin/telepad
export TELEFORK_TEST_CHANGES=hashes
# There is no memory that follows there either, as its telepad would say.
export TELEFORK_LAZY_PROCESS_KB=4294967295
"$build/$test" --gtest_brief=1 --gtest_filter='*/unix:-*ALazyCall*'
