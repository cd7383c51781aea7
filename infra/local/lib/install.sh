# shellcheck shell=bash
# Fetches what the servers need: Debian packages, and the jars of Kafka and Cassandra into the cache.

find_postgres_program() {
  local path newest=''
  for path in /usr/lib/postgresql/*/bin/"$1"; do
    [[ -x $path ]] || continue
    if [[ -z $newest || $(printf '%s\n%s\n' "$path" "$newest" | sort -V | tail -n 1) == "$path" ]]; then
      newest=$path
    fi
  done
  if [[ -n $newest ]]; then
    printf '%s\n' "$newest"
  else
    command -v "$1"
  fi
}

# Java 17 is what Cassandra is tested with; another one on the PATH is the second choice.
find_java() {
  local path
  for path in ${WEIR_JAVA:+"$WEIR_JAVA"} /usr/lib/jvm/java-17-openjdk-*/bin/java; do
    if [[ -x $path ]]; then
      printf '%s\n' "$path"
      return
    fi
  done
  command -v java
}

jar_directory() {
  local pom=$here/$1/pom.xml version checksum
  version=$(grep -m 1 -oP '(?<=<version>)[^<]+' "$pom")
  checksum=$(sha256sum "$pom")
  printf '%s/%s-%s-%s\n' "$cache" "$1" "$version" "${checksum:0:8}"
}

has_curl_headers() {
  compgen -G '/usr/include/curl/curl.h' >/dev/null || compgen -G '/usr/include/*/curl/curl.h' >/dev/null
}

has_all_jars() {
  [[ -d $(jar_directory kafka) && -d $(jar_directory cassandra) ]]
}

missing_packages() {
  find_postgres_program initdb >/dev/null || printf 'postgresql\n'
  command -v redis-server >/dev/null && command -v redis-cli >/dev/null || printf 'redis-server\n'
  find_java >/dev/null || printf 'java\n'
  has_all_jars || command -v mvn >/dev/null || printf 'maven\n'
  # These three build the Kafka client into Weir.
  command -v cmake >/dev/null || printf 'cmake\n'
  command -v g++ >/dev/null && command -v gcc >/dev/null || printf 'gcc\ng++\n'
  has_curl_headers || printf 'libcurl4-openssl-dev\n'
  # And these a library that the benchmark compares Weir with.
  command -v pkg-config >/dev/null && pkg-config --exists openssl || printf 'pkg-config\nlibssl-dev\n'
}

# Newer Debian releases have no Java 17.
java_package() {
  if apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then
    printf 'openjdk-17-jre-headless\n'
  else
    printf 'default-jre-headless\n'
  fi
}

# Debian starts a server as soon as its package is installed; ours run from this clone alone.
install_packages_without_starting_them() (
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    # Left behind, it would keep every later package from starting its service.
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
  fi
  "${as_root[@]}" apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@" >>"$cache/apt.log" 2>&1 ||
    die "apt-get install $* failed; see $cache/apt.log"
)

# Nor are they to be started at the next boot.
disable_services_of() {
  local package
  [[ -d /run/systemd/system ]] || return 0
  for package in "$@"; do
    case $package in
      postgresql | redis-server) "${as_root[@]}" systemctl --quiet disable "$package" || true ;;
    esac
  done
}

install_missing_packages() {
  local packages as_root=(env DEBIAN_FRONTEND=noninteractive)
  mapfile -t packages < <(missing_packages)
  ((${#packages[@]} > 0)) || return 0
  command -v apt-get >/dev/null ||
    die "missing: ${packages[*]}. This script can install them only with apt-get (Debian, Ubuntu); install them by hand, or use infra/compose"
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "missing: ${packages[*]}, and there is no sudo; as root, run: infra/local/stack install"
    as_root=(sudo "${as_root[@]}")
  fi

  say "installing Debian packages: ${packages[*]}"
  "${as_root[@]}" apt-get -q -o DPkg::Lock::Timeout=300 update >"$cache/apt.log" 2>&1 ||
    die "apt-get update failed; see $cache/apt.log"
  mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sed "s/^java\$/$(java_package)/")
  install_packages_without_starting_them "${packages[@]}"
  disable_services_of "${packages[@]}"
  mapfile -t packages < <(missing_packages)
  ((${#packages[@]} == 0)) || die "still missing after apt-get install: ${packages[*]}"
}

install_jars() {
  local name=$1 target download
  target=$(jar_directory "$name")
  [[ ! -d $target ]] || return 0
  say "fetching the jars of $name into $target"
  download=$(mktemp -d "$cache/download.XXXXXX")
  mvn -q -B -f "$here/$name/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$download/jars" -DincludeScope=runtime >"$cache/maven.log" 2>&1 || {
    rm -rf "$download"
    die "maven could not fetch the jars of $name (is Maven Central reachable? a mirror goes into ~/.m2/settings.xml); see $cache/maven.log"
  }
  mv "$download/jars" "$target"
  rmdir "$download"
}

install_missing() {
  mkdir -p "$cache" || die "cannot write the cache $cache; set WEIR_CACHE to another folder"
  # Two clones may want to install at the same time.
  exec {install_lock}>>"$cache/install.lock"
  flock "$install_lock"
  # Nobody else is downloading now, so these were interrupted.
  rm -rf "$cache"/download.*
  install_missing_packages
  install_jars kafka
  install_jars cassandra
  exec {install_lock}>&-
}
