# shellcheck shell=bash
# Redis: one server with an append-only file.

redis_stop_signal=TERM

redis_directory() {
  printf '%s/redis\n' "$state"
}

redis_launch() {
  mkdir -p "$(redis_directory)"
  launch redis redis-server "$here/redis/redis.conf" \
    --bind 127.0.0.1 --port "$(port_of redis)" --dir "$(redis_directory)"
}

redis_answers() {
  [[ $(timeout 5 redis-cli -h 127.0.0.1 -p "$(port_of redis)" ping 2>/dev/null) == PONG ]]
}
