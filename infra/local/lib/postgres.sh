# shellcheck shell=bash
# PostgreSQL: a cluster of our own, run by a user who is not root because the server refuses root.

postgres_stop_signal=INT # "fast" shutdown; TERM would wait for every client to leave.

# Usually .local/postgres; elsewhere when the server's user cannot reach the clone, as below /root.
# The other place names its clone, so that a copy of .local does not take the original's cluster for its own.
postgres_directory() {
  local elsewhere owner
  if elsewhere=$(cat "$state/postgres.location" 2>/dev/null) &&
    owner=$(cat "${elsewhere%/*}/owner" 2>/dev/null) && [[ ! -e $owner || $owner -ef $state ]]; then
    printf '%s\n' "$elsewhere"
  else
    printf '%s/postgres\n' "$state"
  fi
}

as_postgres_user() {
  local user=postgres
  if ((EUID != 0)); then
    "$@"
  else
    id "$user" >/dev/null 2>&1 || user=nobody
    setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- "$@"
  fi
}

give_to_postgres_user() {
  local user=postgres
  ((EUID == 0)) || return 0
  id "$user" >/dev/null 2>&1 || user=nobody
  chown "$user:$(id -g "$user")" "$@"
}

choose_postgres_directory() {
  local probe=$state/postgres.new
  rm -rf "$probe"
  mkdir "$probe"
  give_to_postgres_user "$probe"
  if as_postgres_user test -w "$probe"; then
    rmdir "$probe"
    return
  fi
  rmdir "$probe"
  probe=$(mktemp -d /var/lib/weir-stack.XXXXXX)
  chmod 711 "$probe"
  printf '%s\n' "$state" >"$probe/owner"
  printf '%s/postgres\n' "$probe" >"$state/postgres.location"
  say "postgres keeps its data in $probe: its user may not enter $state"
}

# The cluster appears under its name only when it is complete.
make_postgres_cluster() {
  local directory unfinished password
  [[ -e $(postgres_directory) ]] || choose_postgres_directory
  directory=$(postgres_directory)
  [[ ! -e $directory ]] || return 0
  unfinished=$directory.new
  password=$directory.password
  rm -rf "$unfinished"
  mkdir -p "$unfinished"
  # A file, because the other user may not open a pipe of ours.
  install -m 600 /dev/null "$password"
  secret postgres-admin >"$password"
  give_to_postgres_user "$unfinished" "$password"
  (
    cd /
    as_postgres_user "$(find_postgres_program initdb)" --pgdata="$unfinished" --username=postgres \
      --pwfile="$password" --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
  ) >"$state/log/initdb.log" 2>&1 || die "initdb failed; see .local/log/initdb.log"
  rm "$password"
  mv "$unfinished" "$directory"
}

# A crashed server leaves its pid behind, and the next one must not mistake a stranger for it.
remove_stale_postmaster_pid() {
  local file=$1/postmaster.pid pid
  read -r pid 2>/dev/null <"$file" || return 0
  [[ "/proc/$pid/cwd" -ef $1 ]] || rm -f "$file"
}

postgres_launch() {
  local directory
  make_postgres_cluster
  directory=$(postgres_directory)
  install -m 600 "$here/postgres/postgresql.conf" "$here/postgres/pg_hba.conf" "$directory/"
  give_to_postgres_user "$directory/postgresql.conf" "$directory/pg_hba.conf"
  remove_stale_postmaster_pid "$directory"
  local run_as=()
  if ((EUID == 0)); then
    local user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
    run_as=(setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups --)
  fi
  launch postgres "${run_as[@]}" "$(find_postgres_program postgres)" -D "$directory" -p "$(port_of postgres)"
}

# query USER DATABASE: runs the SQL of standard input.
postgres_query() {
  local user=$1 database=$2 password=postgres-weir
  [[ $user != postgres ]] || password=postgres-admin
  PGPASSWORD=$(secret "$password") PGCONNECT_TIMEOUT=5 "$(find_postgres_program psql)" \
    --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 \
    --host=127.0.0.1 --port="$(port_of postgres)" --username="$user" --dbname="$database"
}

# Weir's role may make databases, because every test suite works in one of its own.
postgres_first_answer() {
  postgres_query postgres postgres <<SQL
SELECT format('CREATE ROLE weir LOGIN CREATEDB PASSWORD %L', '$(secret postgres-weir)')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'weir') \gexec
SELECT 'CREATE DATABASE weir OWNER weir'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'weir') \gexec
SQL
}

postgres_answers() {
  [[ $(postgres_query weir weir <<<'SELECT 1' 2>/dev/null) == 1 ]]
}
