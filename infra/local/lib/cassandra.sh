# shellcheck shell=bash
# Cassandra: one node.

cassandra_stop_signal=TERM

cassandra_directory() {
  printf '%s/cassandra\n' "$state"
}

file_url() {
  local path=$1
  path=${path//'%'/'%25'}
  path=${path//' '/'%20'}
  path=${path//'#'/'%23'}
  path=${path//'?'/'%3F'}
  printf 'file://%s\n' "$path"
}

java_major_version() {
  local banner
  banner=$("$1" -version 2>&1) || die "$1 -version failed: $banner"
  [[ $banner =~ version\ \"([0-9]+) ]] && printf '%d\n' "${BASH_REMATCH[1]}"
}

cassandra_launch() {
  local directory jars java version newer_java=()
  directory=$(cassandra_directory)
  jars=$(jar_directory cassandra)
  java=$(find_java)
  version=$(java_major_version "$java")
  ((version >= 17)) || die "$java is Java $version; Cassandra needs 17: install openjdk-17-jre-headless or set WEIR_JAVA"
  ((version == 17)) || newer_java=(-Djava.security.manager=allow)

  mkdir -p "$directory"
  fill_in "$here/cassandra/cassandra.yaml" "DATA=$directory" \
    "NATIVE_PORT=$(port_of cassandra)" "STORAGE_PORT=$(port_of cassandra_storage)" >"$directory/cassandra.yaml"
  # The last three spare a single node the wait for peers that do not exist.
  launch cassandra "$java" "@$here/cassandra/java.options" "${newer_java[@]}" \
    -cp "$jars/*" "-javaagent:$(compgen -G "$jars/jamm-*.jar")" \
    -Xms512m -Xmx1536m -Xss512k -XX:+UseG1GC -XX:+ExitOnOutOfMemoryError \
    "-Dcassandra.config=$(file_url "$directory/cassandra.yaml")" \
    "-Dcassandra.storagedir=$directory" \
    "-Dlogback.configurationFile=$here/cassandra/logback.xml" \
    -Dcassandra-foreground=yes \
    -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=0 -Dcassandra.initial_token=0 \
    org.apache.cassandra.service.CassandraDaemon
}

# Reads one frame of the native protocol from file 3 and prints its opcode.
read_cql_frame() {
  local header length
  read -ra header < <(timeout 5 head -c 9 <&3 | od -An -v -tu1 -w9)
  ((${#header[@]} == 9)) || return 1
  length=$((header[5] << 24 | header[6] << 16 | header[7] << 8 | header[8]))
  timeout 5 head -c "$length" <&3 >/dev/null
  printf '%d\n' "${header[4]}"
}

# A connection as a client makes it: STARTUP, READY (2), QUERY, RESULT (8), in protocol version 4.
cassandra_answers() (
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$(port_of cassandra)" || exit 1
  # opcode 1, 22 bytes: a map with CQL_VERSION = 3.0.0
  printf '\4\0\0\0\1\0\0\0\26\0\1\0\13CQL_VERSION\0\0053.0.0' >&3
  [[ $(read_cql_frame) == 2 ]] || exit 1
  # opcode 7, 44 bytes: the statement (37), consistency ONE, no flags
  printf '\4\0\0\0\7\0\0\0\54\0\0\0\45SELECT cluster_name FROM system.local\0\1\0' >&3
  [[ $(read_cql_frame) == 8 ]]
)
