# shellcheck shell=bash
# The secrets of this clone, and .local/stack.env: what Weir has to know to reach the servers.

random_hex() {
  od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'
}

# Prints a secret of this clone, made on its first use and kept.
secret() {
  local file=$state/secrets/$1
  if [[ ! -s $file ]]; then
    (
      umask 077
      mkdir -p "$state/secrets"
      random_hex 32 >"$file.new"
    )
    mv "$file.new" "$file"
  fi
  cat "$file"
}

write_settings() (
  umask 077
  cat >"$state/stack.env.new" <<TEXT
WEIR__STORES__MODE=distributed
WEIR__POSTGRES__URL=postgres://weir:$(secret postgres-weir)@127.0.0.1:$(port_of postgres)/weir
WEIR__REDIS__URL=redis://127.0.0.1:$(port_of redis)
WEIR_TEST_REDIS_CLUSTER_URL=$(redis_cluster_url)
WEIR__KAFKA__BROKERS=127.0.0.1:$(port_of kafka)
WEIR_TEST_KAFKA_FOR_PROXIES=127.0.0.1:$(port_of kafka_for_proxies)
WEIR_TEST_KAFKA_PROXY=127.0.0.1:$(port_of kafka_proxy)
WEIR__CASSANDRA__NODES=127.0.0.1:$(port_of cassandra)
WEIR__CASSANDRA__KEYSPACE=weir
WEIR__IDENTITY__SECRET=$(secret identity)
TEXT
  mv "$state/stack.env.new" "$state/stack.env"
)

# fill_in TEMPLATE KEY=VALUE...: prints the file with every @KEY@ replaced.
fill_in() {
  local text pair
  text=$(<"$1")
  shift
  for pair in "$@"; do
    text=${text//"@${pair%%=*}@"/"${pair#*=}"}
  done
  printf '%s\n' "$text"
}
