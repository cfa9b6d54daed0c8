#!/usr/bin/env bash
# Builds the operator package with an installed CANN 8.x and leaves custom_opp_*.run.
#
#   build.sh [PRESET] [--cann DIR] [--work DIR] [--out DIR]
#
#   PRESET   ascend310p, ascend910b, ascend910_93, or default for all of them
#   --cann   the toolkit; $ASCEND_HOME_PATH or $ASCEND_TOOLKIT_HOME otherwise
#   --work   private folder of the build (default: a new temporary one)
#   --out    where the .run file goes (default: the current folder)
#
# Exit: 0 built, 2 bad call, 3 the build failed, 4 no CANN or no cmake.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
preset=default
cann="${ASCEND_HOME_PATH:-${ASCEND_TOOLKIT_HOME:-}}"
work=""
out="$PWD"
while [ $# -gt 0 ]; do
  case "$1" in
    --cann) cann="$2"; shift 2 ;;
    --work) work="$2"; shift 2 ;;
    --out) out="$2"; shift 2 ;;
    --*) echo "error: unknown option $1" >&2; exit 2 ;;
    *) preset="$1"; shift ;;
  esac
done

if [ -z "$cann" ] || [ ! -d "$cann" ]; then
  echo "error: no CANN toolkit: source its set_env.sh or give --cann DIR" >&2
  exit 4
fi
command -v cmake > /dev/null || { echo "error: cmake 3.19 or newer is needed" >&2; exit 4; }
templates="$cann/tools/op_project_templates/ascendc/customize"
if [ ! -f "$templates/cmake/func.cmake" ]; then
  echo "error: $templates/cmake is missing: this is not the full toolkit of CANN 8.x (see README.md" \
    "for CANN 9)" >&2
  exit 4
fi

[ -n "$work" ] || work="$(mktemp -d)"
mkdir -p "$work" "$out"
out="$(cd "$out" && pwd)"
for item in CMakeLists.txt CMakePresets.json version.info scripts op_host op_kernel framework; do
  rm -rf "${work:?}/$item"
  cp -R "$here/$item" "$work/"
done
rm -rf "$work/cmake" "$work/build_out"
cp -R "$templates/cmake" "$work/cmake"
chmod -R u+w "$work/cmake"
find "$work/cmake" -name "*.sh" -exec chmod u+x {} +

export ASCEND_HOME_PATH="$cann"
cd "$work"
if ! { cmake -S . -B build_out --preset="$preset" &&
  cmake --build build_out --target binary -j "$(nproc)" &&
  cmake --build build_out --target package -j "$(nproc)"; }; then
  echo "error: the build failed in $work" >&2
  exit 3
fi
made="$(find build_out -maxdepth 1 -name '*.run' | head -n 1)"
[ -n "$made" ] || { echo "error: the build made no .run file in $work/build_out" >&2; exit 3; }
cp "$made" "$out/"
echo "built $out/$(basename "$made")"
