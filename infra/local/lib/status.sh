# shellcheck shell=bash
# One line per server: name, port, pid, and whether it is up, down, or running without an answer.

server_status() {
  if ! running_pid "$1" >/dev/null; then
    printf 'down\n'
  elif "${1}_answers"; then
    printf 'up\n'
  else
    printf 'silent\n'
  fi
}

print_status() {
  local name status all_up=yes
  for name in "${servers[@]}"; do
    status=$(server_status "$name")
    [[ $status == up ]] || all_up=no
    printf '%-12s 127.0.0.1:%-6s pid %-8s %s\n' "$name" "$(port_of "$name")" "$(running_pid "$name" || printf -- '-')" "$status"
  done
  [[ $all_up == yes ]]
}

print_status_json() {
  local name status separator='' all_up=true
  printf '{"servers":['
  for name in "${servers[@]}"; do
    status=$(server_status "$name")
    [[ $status == up ]] || all_up=false
    printf '%s{"name":"%s","host":"127.0.0.1","port":%d,"pid":%s,"status":"%s"}' "$separator" "$name" \
      "$(port_of "$name")" "$(running_pid "$name" || printf 'null')" "$status"
    separator=,
  done
  printf '],"allUp":%s}\n' "$all_up"
  [[ $all_up == true ]]
}
