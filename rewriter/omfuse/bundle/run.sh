#!/bin/sh
# Compile, run and judge this bundle on a board.  Needs CANN, Python 3.8 or newer, and numpy (there
# are wheels in wheels/ when the machine has none).
#
#   ./run.sh                     every chip of the bundle that this board may be
#   ./run.sh --soc Ascend310P3   one chip
#   ./run.sh --device sim        the simulated device, where omfuse is installed
#   ./run.sh --help              all options
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
simulated=no
for word in "$@"; do
  [ "$word" = sim ] || [ "$word" = "--device=sim" ] && simulated=yes
done
if [ "$simulated" = no ]; then
  if ! command -v atc > /dev/null 2>&1; then
    for set_env in /usr/local/Ascend/ascend-toolkit/set_env.sh /usr/local/Ascend/cann/set_env.sh \
      "$HOME/Ascend/ascend-toolkit/set_env.sh"; do
      if [ -f "$set_env" ]; then
        set +eu
        . "$set_env"
        set -eu
        break
      fi
    done
  fi
  PYTHONPATH="$here/lib${PYTHONPATH:+:$PYTHONPATH}"
  export PYTHONPATH
  if ! "$python" -c "import numpy" 2> /dev/null; then
    "$python" -m pip install --quiet --no-index --find-links "$here/wheels" \
      --target "$here/site" numpy
    PYTHONPATH="$PYTHONPATH:$here/site"
  fi
fi
exec "$python" -m omfuse.bundle.board --bundle "$here" "$@"
