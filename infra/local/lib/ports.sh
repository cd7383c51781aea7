# shellcheck shell=bash
# Chooses the ports of a clone once, and remembers them in .local/port-base.

default_port_base=15400
port_base_step=100
port_base_attempts=100
declare -A port_offset=(
  [postgres]=32 [cassandra]=42 [cassandra_storage]=43 [redis]=79
  [redis_node_1]=80 [redis_node_2]=81 [redis_node_3]=82 [redis_node_1_bus]=83 [redis_node_2_bus]=84 [redis_node_3_bus]=85
  [kafka]=92 [kafka_controller]=93 [kafka_for_proxies]=94 [kafka_proxy]=95
)

port_of() {
  printf '%d\n' $((port_base + port_offset[$1]))
}

# Every port a server listens on, its public one first.
ports_of() {
  case $1 in
    kafka) printf '%d\n' "$(port_of kafka)" "$(port_of kafka_controller)" "$(port_of kafka_for_proxies)" ;;
    cassandra) printf '%d\n' "$(port_of cassandra)" "$(port_of cassandra_storage)" ;;
    redis_node_*) printf '%d\n' "$(port_of "$1")" "$(port_of "$1_bus")" ;;
    *) port_of "$1" ;;
  esac
}

is_listening() {
  local hex
  printf -v hex '%04X' "$1"
  # Column 4 is the socket state; 0A is LISTEN.
  grep -qsE "^ *[0-9]+: [0-9A-F]+:$hex [0-9A-F]+:[0-9A-F]+ 0A " /proc/net/tcp /proc/net/tcp6
}

# What was killed a moment ago holds its port until the last of its threads has ended.
wait_until_free() {
  local looks=50
  while is_listening "$1"; do
    ((looks-- > 0)) || return 1
    sleep 0.1
  done
}

load_port_base() {
  port_base=$(cat "$state/port-base" 2>/dev/null || printf '%d' "$default_port_base")
}

# The first port of this base that a stranger listens on.
stolen_port() {
  local name port
  for name in "${servers[@]}"; do
    running_pid "$name" >/dev/null && continue
    for port in $(ports_of "$name"); do
      if is_listening "$port"; then
        printf '%d\n' "$port"
        return
      fi
    done
  done
  return 1
}

# A base belongs to the clone named in its reservation for as long as that clone says the same.
reserved_by_another_clone() {
  local owner
  owner=$(cat "$cache/ports/$1" 2>/dev/null) || return 1
  [[ $owner != "$state" && $(cat "$owner/port-base" 2>/dev/null) == "$1" ]]
}

any_server_runs() {
  local name
  for name in "${servers[@]}"; do
    running_pid "$name" >/dev/null && return
  done
  return 1
}

claim_port_base() {
  printf '%s\n' "$state" >"$cache/ports/$1"
  printf '%d\n' "$1" >"$state/port-base"
  port_base=$1
}

choose_port_base() {
  local remembered wanted=${WEIR_STACK_PORT_BASE:-} port attempt
  remembered=$(cat "$state/port-base" 2>/dev/null || true)
  [[ -z $wanted || $wanted =~ ^[0-9]{4,5}$ && $wanted -ge 1024 && $wanted -le 65400 ]] ||
    die "WEIR_STACK_PORT_BASE must be a number from 1024 to 65400, not '$wanted'"

  mkdir -p "$cache/ports"
  # A base is free only until its servers listen, so clones choose one after the other.
  exec {ports_lock}>>"$cache/ports/lock"
  flock "$ports_lock"

  if [[ -n $remembered ]] && any_server_runs; then
    [[ -z $wanted || $wanted == "$remembered" ]] ||
      die "this stack runs on port base $remembered; stop it first: infra/local/stack down"
    claim_port_base "$remembered"
    if port=$(stolen_port); then
      die "port $port is taken by another program while parts of this stack run on its base; run: infra/local/stack down && infra/local/stack up"
    fi
  elif [[ -n $wanted ]]; then
    port_base=$wanted
    if port=$(stolen_port); then
      die "port $port is taken; choose another WEIR_STACK_PORT_BASE than $wanted or leave it unset"
    fi
    claim_port_base "$wanted"
  else
    port_base=${remembered:-$default_port_base}
    for ((attempt = 0; ; attempt++)); do
      ((attempt < port_base_attempts)) || die "no free port base found from $default_port_base; set WEIR_STACK_PORT_BASE"
      if ! reserved_by_another_clone "$port_base" && ! stolen_port >/dev/null; then
        break
      fi
      ((port_base += port_base_step))
    done
    claim_port_base "$port_base"
  fi
  exec {ports_lock}>&-
}
