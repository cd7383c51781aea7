# shellcheck shell=bash
# Redis Cluster: three masters without replicas, each with a third of the slots.

redis_nodes=(redis_node_1 redis_node_2 redis_node_3)
redis_node_1_stop_signal=TERM
redis_node_2_stop_signal=TERM
redis_node_3_stop_signal=TERM

redis_node_1_directory() { printf '%s/redis_node_1\n' "$state"; }
redis_node_2_directory() { printf '%s/redis_node_2\n' "$state"; }
redis_node_3_directory() { printf '%s/redis_node_3\n' "$state"; }

redis_node_1_launch() { launch_redis_node redis_node_1; }
redis_node_2_launch() { launch_redis_node redis_node_2; }
redis_node_3_launch() { launch_redis_node redis_node_3; }

redis_node_1_answers() { redis_node_answers redis_node_1; }
redis_node_2_answers() { redis_node_answers redis_node_2; }
redis_node_3_answers() { redis_node_answers redis_node_3; }

redis_node_1_first_answer() { join_redis_cluster redis_node_1 0 5460; }
redis_node_2_first_answer() { join_redis_cluster redis_node_2 5461 10922; }
redis_node_3_first_answer() { join_redis_cluster redis_node_3 10923 16383; }

launch_redis_node() {
  local directory
  directory=$("$1_directory")
  mkdir -p "$directory"
  launch "$1" redis-server "$here/redis/redis.conf" --bind 127.0.0.1 --port "$(port_of "$1")" --dir "$directory" \
    --cluster-enabled yes --cluster-port "$(port_of "$1_bus")" --cluster-node-timeout 2000 --cluster-require-full-coverage no
}

redis_node() {
  timeout 5 redis-cli -h 127.0.0.1 -p "$(port_of "$1")" "${@:2}" 2>/dev/null
}

# A node answers when it knows a majority of the cluster and every slot has its node.
redis_node_answers() {
  local facts
  facts=$(redis_node "$1" cluster info | tr -d '\r') || return 1
  [[ $facts == *cluster_state:ok* && $facts == *cluster_slots_assigned:16384* ]]
}

# May be repeated: a node keeps the slots it has, and one that is known already is only told its present address.
join_redis_cluster() {
  local node
  [[ $(redis_node "$1" ping) == PONG ]] || return 1
  redis_node "$1" cluster addslotsrange "$2" "$3" >/dev/null || true
  for node in "${redis_nodes[@]}"; do
    [[ $node == "$1" ]] || redis_node "$1" cluster meet 127.0.0.1 "$(port_of "$node")" "$(port_of "${node}_bus")" >/dev/null || true
  done
}

# What Weir is told: any of the nodes is enough to find the others.
redis_cluster_url() {
  local node nodes=()
  for node in "${redis_nodes[@]}"; do
    nodes+=("127.0.0.1:$(port_of "$node")")
  done
  (
    IFS=,
    printf 'redis+cluster://%s\n' "${nodes[*]}"
  )
}
