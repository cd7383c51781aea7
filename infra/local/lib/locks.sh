# shellcheck shell=bash
# Keeps two runs of the script from working on the same server at once.
# `up` and `down` exclude everything; commands on different servers may run side by side.

lock_wait_secs=300

make_state_directory() {
  mkdir -p "$state/run" "$state/log" || die "cannot write to $state; it may belong to another user"
  # The folder hides itself from git, whatever the clone's own ignore file says.
  [[ -e $state/.gitignore ]] || printf '*\n' >"$state/.gitignore"
}

lock_whole_stack() {
  make_state_directory
  exec {stack_lock}>>"$state/stack.lock"
  take_lock "$stack_lock"
}

lock_server() {
  make_state_directory
  exec {stack_lock}>>"$state/stack.lock" {server_lock}>>"$state/run/$1.lock"
  take_lock "$stack_lock" --shared
  take_lock "$server_lock"
}

take_lock() {
  flock "${@:2}" --wait "$lock_wait_secs" "$1" || die "another stack command of this clone has been busy for $lock_wait_secs s"
}

unlock() {
  exec {stack_lock}>&-
}
