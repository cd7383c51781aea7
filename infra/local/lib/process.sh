# shellcheck shell=bash
# Starts a server process, knows it again later, and ends it.
#
# A pid alone proves nothing: it may have been given to another program since. A process is ours when it
# also began when our pid file says and works in our data directory.

pid_file() {
  printf '%s/run/%s.pid\n' "$state" "$1"
}

# Prints when a process began, in clock ticks since boot; fails when it is gone or a zombie.
start_time_of() {
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The program's name is in brackets and may hold anything, so counting begins behind it.
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != [ZX] ]] || return 1
  printf '%s\n' "${fields[19]}"
}

recorded_process_lives() {
  local started
  started=$(start_time_of "$1") && [[ $started == "$2" ]]
}

# Prints the pid of a server of this clone; fails when it does not run.
running_pid() {
  local pid started
  read -r pid started 2>/dev/null <"$(pid_file "$1")" || return 1
  recorded_process_lives "$pid" "$started" || return 1
  [[ "/proc/$pid/cwd" -ef "$("${1}_directory")" ]] || return 1
  printf '%s\n' "$pid"
}

close_inherited_files() {
  local file
  for file in "/proc/$BASHPID/fd/"*; do
    file=${file##*/}
    # Lock files and pipes of a caller who waits for our output would otherwise stay open as long as the server.
    ((file <= 2)) || eval "exec $file>&-"
  done
}

# launch NAME COMMAND...: runs a server in its data directory, detached from this shell and its terminal.
launch() {
  local name=$1 directory log=$state/log/$1.log pid started
  shift
  directory=$("${name}_directory")
  if [[ -e $log && $(stat -c %s "$log") -gt 16777216 ]]; then
    mv -f "$log" "$log.1"
  fi
  (
    cd "$directory" || exit 1
    close_inherited_files
    ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
    exec setsid "$@"
  ) </dev/null >>"$log" 2>&1 &
  pid=$!
  started=$(start_time_of "$pid") || die "$name ended at once; see $log"
  printf '%s %s\n' "$pid" "$started" >"$(pid_file "$name").new"
  mv "$(pid_file "$name").new" "$(pid_file "$name")"
  until [[ "/proc/$pid/cwd" -ef $directory ]] || ! recorded_process_lives "$pid" "$started"; do
    sleep 0.01
  done
}

children_of() {
  local stat fields
  for stat in /proc/[0-9]*/stat; do
    stat=$(cat "$stat" 2>/dev/null) || continue
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[1]} != "$1" ]] || printf '%s\n' "${stat%% *}"
  done
}

# wait_until_gone DEADLINE_SECS PID...
wait_until_gone() {
  local deadline=$((SECONDS + $1)) pid
  shift
  for pid in "$@"; do
    while start_time_of "$pid" >/dev/null; do
      ((SECONDS < deadline)) || return 1
      sleep 0.05
    done
  done
}

# Ends a process and its children without giving any of them a chance to tidy up.
kill_tree() {
  local pid=$1 children
  # Stopped first, so that it neither makes new children nor notices that they die.
  kill -STOP "$pid" 2>/dev/null || return 0
  mapfile -t children < <(children_of "$pid")
  kill -KILL "${children[@]}" "$pid" 2>/dev/null || true
  wait_until_gone 10 "${children[@]}" "$pid" || die "process $pid does not die"
}
