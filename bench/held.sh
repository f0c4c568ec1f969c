# Sourced after measure.sh: how fast does a running worker store, which knows its tables? A lock on the history
# stops it while rows accumulate, and is then released.

# shellcheck shell=bash

# Prints changes per second: held_rate COUNT STATEMENT. The statement must make COUNT changes.
held_rate() {
    local count=$1 statement=$2 before begin stored
    before=$(sql -c 'SELECT changes FROM bemi.status')
    coproc holder { "$bin/psql" -XAtq -v ON_ERROR_STOP=1; }
    # shellcheck disable=SC2154 # set by coproc
    echo 'BEGIN; LOCK TABLE bemi.changes IN EXCLUSIVE MODE; SELECT 1;' >&"${holder[1]}"
    read -r <&"${holder[0]}"
    PGOPTIONS="-c bemi.context=${context// /} -c synchronous_commit=off" sql -c "$statement" >/dev/null
    begin=$EPOCHREALTIME
    echo 'COMMIT; \q' >&"${holder[1]}"
    # shellcheck disable=SC2154
    wait "$holder_PID"
    sql -c "SELECT bemi.sync('5min')" >/dev/null
    awk -v n="$count" -v begin="$begin" -v end="$EPOCHREALTIME" 'BEGIN { printf "%.0f\n", n / (end - begin) }'
    stored=$(($(sql -c 'SELECT changes FROM bemi.status') - before))
    [ "$stored" = "$count" ] || { echo "stored $stored changes of $count" >&2; return 1; }
    # Skips the worker's own writes.
    sql -c "SELECT bemi.sync('5min')" >/dev/null
}
