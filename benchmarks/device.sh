#!/usr/bin/env bash
# What a GPU makes of it: speed of the forward model, the flow and verified posteriors, and the default estimator trained further. Nine minutes.
#
#   OUT=results benchmarks/device.sh            # PYTHON, DEVICE (cuda), MINUTES (6) of training, SIZE (full, or tiny to try it on a CPU)
#   OUT=results benchmarks/device.sh --paper    # the network of Gupta et al. 2024 instead, MINUTES (95, as theirs); run it again to go on
#
# $OUT/device.json says which card gave each figure; $OUT/training holds the estimator. What was begun is worth having: each figure is written
# as it is found.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-device-results}
PYTHON=${PYTHON:-python}
DEVICE=${DEVICE:-cuda}
[ "${1:-}" = --paper ] && MINUTES=${MINUTES:-95}
MINUTES=${MINUTES:-6}
SIZE=${SIZE:-full}
MODEL=${MODEL:-marcs-apogee}
export PYTHONPATH="$PWD/src"
mkdir -p "$OUT"

if [ "${1:-}" = --paper ]; then
    exec "$PYTHON" benchmarks/device.py paper --model "$MODEL" --device "$DEVICE" --size "$SIZE" --minutes "$MINUTES" --output "$OUT/paper"
fi
"$PYTHON" benchmarks/device.py speed --model "$MODEL" --device "$DEVICE" --size "$SIZE" --output "$OUT/device.json"
# Whatever is not done by then is cut off; files of what was measured, and the best weights so far, are there.
timeout "$(awk "BEGIN {print int(60 * $MINUTES + 90)}")" \
    "$PYTHON" benchmarks/device.py train --model "$MODEL" --device "$DEVICE" --size "$SIZE" --minutes "$MINUTES" --output "$OUT/training" \
    || echo "training was cut off"
