# shellcheck shell=bash
# Kafka: one process as broker and controller (KRaft).

kafka_stop_signal=TERM

kafka_directory() {
  printf '%s/kafka\n' "$state"
}

kafka_java() {
  local directory=$1
  shift
  printf '%s\0' "$(find_java)" -cp "$(jar_directory kafka)/*" \
    "-Dlog4j2.configurationFile=$here/kafka/log4j2.properties" "-Dkafka.logs.dir=$directory" "$@"
}

write_kafka_settings() {
  fill_in "$here/kafka/server.properties" "DATA=$1" \
    "BROKER_PORT=$(port_of kafka)" "CONTROLLER_PORT=$(port_of kafka_controller)" \
    "FOR_PROXIES_PORT=$(port_of kafka_for_proxies)" "PROXY_PORT=$(port_of kafka_proxy)" >"$1/server.properties"
}

# The log directory appears under its name only when it is complete.
format_kafka_log() {
  local directory unfinished cluster_id command
  directory=$(kafka_directory)
  [[ ! -e $directory ]] || return 0
  unfinished=$directory.new
  rm -rf "$unfinished"
  mkdir -p "$unfinished"
  write_kafka_settings "$unfinished"
  # A Kafka id is 16 bytes in URL-safe base64; one that began with a dash would look like an option.
  cluster_id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=' | sed 's/^-/A/')
  mapfile -d '' command < <(kafka_java "$unfinished" -Xmx128m -XX:TieredStopAtLevel=1 \
    kafka.tools.StorageTool format -t "$cluster_id" -c "$unfinished/server.properties")
  "${command[@]}" >"$state/log/kafka-format.log" 2>&1 || die "formatting Kafka's log failed; see .local/log/kafka-format.log"
  mv "$unfinished" "$directory"
}

kafka_launch() {
  local directory command
  format_kafka_log
  directory=$(kafka_directory)
  write_kafka_settings "$directory"
  mapfile -d '' command < <(kafka_java "$directory" -Xms256m -Xmx1g -XX:+UseG1GC -XX:+ExitOnOutOfMemoryError \
    kafka.Kafka "$directory/server.properties")
  launch kafka "${command[@]}"
}

# A metadata request, version 4, for no topic. The answer counts when it lists at least one broker,
# which it does only after the controller has let the broker in.
kafka_answers() (
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$(port_of kafka)" || exit 1
  # length 19 | key 3, version 4 | correlation 1 | client "weir" | 0 topics | no topic creation
  printf '\0\0\0\23\0\3\0\4\0\0\0\1\0\4weir\0\0\0\0\0' >&3
  # length, correlation, throttle time, number of brokers
  read -ra answer < <(timeout 5 head -c 16 <&3 | od -An -v -tu1 -w16)
  ((${#answer[@]} == 16 && answer[7] == 1 && answer[15] >= 1))
)
