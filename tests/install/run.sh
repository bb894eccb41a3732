#!/bin/bash
# Installs a build into a scratch prefix, moves it, and builds and runs tests/install/consumer against it.
# Usage: run.sh BUILD CMAKE CC CXX
set -euo pipefail
build=$1 cmake=$2 cc=$3 cxx=$4
consumer=$(cd "$(dirname "$0")" && pwd)/consumer
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$cmake" --install "$build" --prefix "$scratch/first" >"$scratch/install.log" ||
  { cat "$scratch/install.log"; exit 1; }
# What README.md has built for it builds all of it: nothing is taken that another target has made.
inputs=$(ninja -C "$build" -t inputs telefork_programs)
(cd "$scratch/first" && find bin lib* -type f ! -name '*.cmake' ! -name '*.pc') | while read -r file; do
  grep -q "/\?${file##*/}\$" <<<"$inputs" ||
    { echo "$file is installed, and telefork_programs does not build it"; exit 1; }
done
# A tree that still points to where it was installed first would show it now.
mv "$scratch/first" "$scratch/prefix"
prefix=$scratch/prefix
libdir=$(dirname "$(find "$prefix" -name libtelefork.so)")
export PKG_CONFIG_PATH=$libdir/pkgconfig

expect_ok() {
  local output
  output=$(LD_LIBRARY_PATH=$libdir "$@")
  [[ $output == "consumer: ok" ]] || { echo "$1 said: $output"; exit 1; }
}

read -ra flags <<<"$(pkg-config --cflags --libs telefork)"
"$cc" -std=c11 -Wall -Wextra -Werror -pedantic "$consumer/consumer.c" "${flags[@]}" -o "$scratch/c"
"$cxx" -std=c++20 -Wall -Wextra -Werror "$consumer/consumer.cc" "${flags[@]}" -o "$scratch/cpp"
expect_ok "$scratch/c"
expect_ok "$scratch/cpp"

"$cmake" -S "$consumer" -B "$scratch/build" -DCMAKE_PREFIX_PATH="$prefix" \
  -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" >"$scratch/cmake.log" 2>&1 ||
  { cat "$scratch/cmake.log"; exit 1; }
"$cmake" --build "$scratch/build" >"$scratch/make.log" 2>&1 || { cat "$scratch/make.log"; exit 1; }
expect_ok "$scratch/build/consumer_c"
expect_ok "$scratch/build/consumer_cpp"

# libtelefork.so lives in other people's programs: libc is all that it may bring along.
needed=$(LC_ALL=C objdump -p "$libdir/libtelefork.so" | awk '$1 == "NEEDED" {print $2}')
for library in $needed; do
  case $library in
    libc.so.6 | ld-linux-*) ;;
    *) echo "libtelefork.so needs $library"; exit 1 ;;
  esac
done
# And its C interface is all that it may show.
shown=$(nm -D --defined-only "$libdir/libtelefork.so" | awk '{print $3}' | grep -v '^telefork_' || true)
[[ -z $shown ]] || { echo "libtelefork.so shows: $shown"; exit 1; }

# Nothing installed may name the folder that it was built in.
if grep -rIl "$(cd "$build" && pwd)" "$prefix"; then
  echo "the files above name the build folder"
  exit 1
fi
echo "install: ok"
