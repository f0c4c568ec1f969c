# Sourced after measure.sh: how fast does a running worker store, which knows its tables? A lock on the history
# stops it while rows accumulate, and is then released.

# shellcheck shell=bash

# Nanoseconds that the worker has been on a processor.
worker_time() {
    cut -d ' ' -f 1 "/proc/$(sql -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'bemi worker'")/schedstat"
}

# Prints changes per second, and how many microseconds of a processor the worker has taken for one of them:
# held_measure COUNT STATEMENT. The statement must make COUNT changes.
held_measure() {
    local count=$1 statement=$2 before begin end stored used
    before=$(sql -c 'SELECT changes FROM bemi.status')
    coproc holder { "$bin/psql" -XAtq -v ON_ERROR_STOP=1; }
    # shellcheck disable=SC2154 # set by coproc
    echo 'BEGIN; LOCK TABLE bemi.changes IN EXCLUSIVE MODE; SELECT 1;' >&"${holder[1]}"
    read -r <&"${holder[0]}"
    PGOPTIONS="-c bemi.context=${context// /} -c synchronous_commit=off" sql -c "$statement" >/dev/null
    used=$(worker_time)
    begin=$EPOCHREALTIME
    echo 'COMMIT; \q' >&"${holder[1]}"
    # shellcheck disable=SC2154
    wait "$holder_PID"
    sql -c "SELECT bemi.sync('5min')" >/dev/null
    end=$EPOCHREALTIME
    awk -v n="$count" -v begin="$begin" -v end="$end" -v used="$(($(worker_time) - used))" \
        'BEGIN { printf "%.0f %.4f\n", n / (end - begin), used / n / 1000 }'
    stored=$(($(sql -c 'SELECT changes FROM bemi.status') - before))
    [ "$stored" = "$count" ] || { echo "stored $stored changes of $count" >&2; return 1; }
    # Skips the worker's own writes.
    sql -c "SELECT bemi.sync('5min')" >/dev/null
}

# Prints changes per second.
held_rate() { held_measure "$@" | cut -d ' ' -f 1; }
