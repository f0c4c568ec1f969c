# Sourced after measure.sh: how fast a worker stores that has been running for a while, and knows its tables.
# It is held up by a lock on the history while rows pile up, then let go.

# shellcheck shell=bash

# Prints changes per second: held_rate COUNT STATEMENT, which must make so many changes.
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
    # Past what the worker has written itself.
    sql -c "SELECT bemi.sync('5min')" >/dev/null
}
