# shellcheck shell=bash
# What the script tells the person who runs it.

say() {
  printf 'stack: %s\n' "$*"
}

die() {
  printf 'stack: error: %s\n' "$*" >&2
  exit 1
}

# Prints the time since an earlier $EPOCHREALTIME in seconds with one decimal.
seconds_since() {
  local now=$EPOCHREALTIME tenths
  tenths=$(((${now/[.,]/} - ${1/[.,]/}) / 100000))
  printf '%d.%d\n' $((tenths / 10)) $((tenths % 10))
}
