# shellcheck shell=bash
# Starting and stopping, the same way for every server. A server NAME brings four things of its own:
# NAME_directory, NAME_launch, NAME_answers and NAME_stop_signal; NAME_first_answer when it has to be set up.

answer_wait_secs=180
stop_wait_secs=30

log_tail() {
  say "the end of .local/log/$1.log:" >&2
  tail -n 15 "$state/log/$1.log" | sed 's/^/    /' >&2
}

wait_for_answer() {
  local name=$1 deadline=$((SECONDS + answer_wait_secs)) set_up=${1}_first_answer
  until { ! declare -F "$set_up" >/dev/null || "$set_up" 2>/dev/null; } && "${name}_answers"; do
    # Looked at twice: a single look at a process that is just becoming its program has failed while it lived.
    if ! running_pid "$name" >/dev/null && sleep 1 && ! running_pid "$name" >/dev/null; then
      log_tail "$name"
      die "$name ended before it answered"
    fi
    if ((SECONDS >= deadline)); then
      log_tail "$name"
      die "$name runs but has not answered for $answer_wait_secs s"
    fi
    sleep 0.1
  done
}

start_server() {
  local name=$1 began=$EPOCHREALTIME port
  if running_pid "$name" >/dev/null; then
    if "${name}_answers"; then
      say "$name is already up"
      return
    fi
  else
    rm -f "$(pid_file "$name")"
    for port in $(ports_of "$name"); do
      wait_until_free "$port" || die "$name cannot start: port $port is taken by another program"
    done
    "${name}_launch"
  fi
  wait_for_answer "$name"
  say "$name answers after $(seconds_since "$began") s"
}

stop_server() {
  local name=$1 signal=${1}_stop_signal pid began=$EPOCHREALTIME
  if ! pid=$(running_pid "$name"); then
    rm -f "$(pid_file "$name")"
    say "$name is not running"
    return
  fi
  kill "-${!signal}" "$pid" 2>/dev/null || true
  if wait_until_gone "$stop_wait_secs" "$pid"; then
    say "$name stopped after $(seconds_since "$began") s"
  else
    kill_tree "$pid"
    say "$name did not stop within $stop_wait_secs s and was killed"
  fi
  rm -f "$(pid_file "$name")"
}

kill_server() {
  local name=$1 pid
  if ! pid=$(running_pid "$name"); then
    rm -f "$(pid_file "$name")"
    say "$name is not running"
    return
  fi
  kill_tree "$pid"
  rm -f "$(pid_file "$name")"
  say "$name killed"
}

# Runs an action for all at once and waits for each.
# Called plainly, never behind `||`: there, bash would let the actions run on after an error.
for_all_at_once() {
  local action=$1 name job jobs=() failed=()
  for name in "${servers[@]}"; do
    ("$action" "$name") &
    jobs+=($!)
  done
  for job in "${!jobs[@]}"; do
    wait "${jobs[job]}" || failed+=("${servers[job]}")
  done
  ((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
}

start_all() {
  for_all_at_once start_server
}

stop_all() {
  for_all_at_once stop_server
}

# Deletes what the servers and this script have written; other things in .local stay.
purge() {
  local cluster
  cluster=$(postgres_directory)
  [[ $cluster != /var/lib/weir-stack.*/postgres ]] || rm -rf "${cluster%/postgres}"
  rm -rf "$state"/{postgres,redis,redis_node_{1,2,3},kafka,cassandra}{,.new} "$state"/{run,log,secrets} \
    "$state"/{postgres.location,port-base,stack.env}
}
