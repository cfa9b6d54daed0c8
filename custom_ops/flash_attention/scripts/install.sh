#!/usr/bin/env bash
# Installs the operator package: run by the .run file in the folder where it unpacked itself.
#
#   --install-path=DIR   vendors/ goes below DIR, and bin/set_env.bash tells how to use it
#
# Without --install-path: $ASCEND_CUSTOM_OPP_PATH when set, else $ASCEND_OPP_PATH, whose
# vendors/config.ini then lists the vendor first.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
vendor="$(sed -n 's/^vendor_name=//p' "$here/vendor.info")"
[ -n "$vendor" ] || { echo "error: vendor.info names no vendor" >&2; exit 1; }

path=""
for argument in "$@"; do
  case "$argument" in
    --install-path=*) path="${argument#*=}" ;;
    --*) ;; # CANN's unpacker puts words of its own before the user's
    *) echo "error: unknown argument $argument (use --install-path=DIR)" >&2; exit 1 ;;
  esac
done

listed=0
if [ -n "$path" ]; then
  case "$path" in
    /*) ;;
    *) echo "error: --install-path needs an absolute path" >&2; exit 1 ;;
  esac
  target="${path%/}"
elif [ -n "${ASCEND_CUSTOM_OPP_PATH:-}" ]; then
  target="${ASCEND_CUSTOM_OPP_PATH%%:*}"
elif [ -n "${ASCEND_OPP_PATH:-}" ]; then
  target="$ASCEND_OPP_PATH"
  listed=1
else
  echo "error: source CANN's set_env.sh first, or give --install-path=DIR" >&2
  exit 1
fi

from="$here/packages/vendors/$vendor"
to="$target/vendors/$vendor"
[ -d "$from" ] || { echo "error: the package holds no $from" >&2; exit 1; }
mkdir -p "$target/vendors"
# Beside the old one first, so that an interrupted copy leaves the old one whole.
fresh="$(mktemp -d "$target/vendors/.$vendor.XXXXXX")"
trap 'rm -rf "$fresh"' EXIT
cp -a "$from/." "$fresh/"
chmod 755 "$fresh"
if [ "$listed" = 0 ]; then
  mkdir -p "$fresh/bin"
  cat > "$fresh/bin/set_env.bash" <<END
export ASCEND_CUSTOM_OPP_PATH="$to\${ASCEND_CUSTOM_OPP_PATH:+:\$ASCEND_CUSTOM_OPP_PATH}"
export LD_LIBRARY_PATH="$to/op_api/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
END
fi
rm -rf "$to"
mv "$fresh" "$to"
trap - EXIT

if [ "$listed" = 1 ]; then
  config="$target/vendors/config.ini"
  others="$(sed -n 's/^load_priority=//p' "$config" 2>/dev/null | tr ',' '\n' | grep -vx "$vendor" |
    paste -sd, - || true)"
  echo "load_priority=$vendor${others:+,$others}" > "$config.new"
  mv "$config.new" "$config"
  echo "installed $to; vendors/config.ini lists $vendor first"
else
  echo "installed $to; source $to/bin/set_env.bash before atc"
fi
