# Sourced by the scripts in bench/: a server to measure on, two things in turn, and a line of the table.
#
# Machines are noisy, and their speed drifts. So two things are measured in turn (A B A B ...), and each pair gives
# a ratio. The median of the ratios is the result. The smallest and the largest show the noise. The first pair is
# not counted.
#
# Each script runs by itself (bench/statement) or with all others ("make bench", bench/run). Both start a
# throwaway server for it, configured as below.

# shellcheck shell=bash
set -euo pipefail
shopt -s inherit_errexit

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# The defaults, except for settings that avoid checkpoints during a measurement.
if [ -z "${PGHOST:-}" ]; then
    BEMI_CONF="
	fsync = on
	shared_buffers = 2GB
	min_wal_size = 4GB
	max_wal_size = 8GB
	checkpoint_timeout = 1h
	${BEMI_CONF:-}" exec "$top/test/sandbox" test/serve "bench/$(basename "$0")" "$@"
fi

bin=$("$PG_CONFIG" --bindir)
pairs=${BENCH_PAIRS:-7}
work=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

sql() { "$bin/psql" -XAtq -v ON_ERROR_STOP=1 "$@"; }

# Duration of a statement in seconds.
seconds_of() {
    local begin=$EPOCHREALTIME
    sql -c "$1" >/dev/null
    echo "$begin $EPOCHREALTIME" | awk '{ printf "%.6f\n", $2 - $1 }'
}

# fine_pairs is for differences of a few percent in work that waits for the disk. They need many pairs, each of a
# fraction of a second, because the disk's speed drifts.
fine_pairs=$((pairs * 8))

# Transactions per second of a pgbench script. LIMIT is in seconds (-T 60) or transactions of each client (-t 300):
# rate CLIENTS LIMIT FILE [OPTION...]
rate() {
    local clients=$1 limit=$2 file=$3
    shift 3
    # shellcheck disable=SC2086 # two words
    "$bin/pgbench" -n -M prepared -c "$clients" -j 2 $limit -f "$file" "$@" 2>"$work/pgbench.err" |
        awk '/^tps/ { print $3; found = 1 } END { exit !found }' || { cat "$work/pgbench.err" >&2; return 1; }
}

# Runs two functions in turn, each of which prints a figure, and prints "A B" for each counted pair. Every other time
# B comes first, because the second one may have an advantage.
in_turn() {
    local pair a b
    for ((pair = 0; pair <= pairs; pair++)); do
        if ((pair % 2)); then
            a=$("$1") b=$("$2")
        else
            b=$("$2") a=$("$1")
        fi
        if [ "$pair" -gt 0 ]; then echo "$a $b"; fi
    done
}

# Reads lines of "A B" and prints the ratio of each.
ratios() { awk '{ printf "%.4f\n", $1 / $2 }'; }

# Prints a line of the table (median, smallest, largest) from figures on stdin, one in each line.
#
#	line QUESTION AGAINST TARGET [FORMAT]
#
# TARGET is ">= 0.9", "<= 2", or "" for a figure without a target.
line() {
    sort -g | awk -v question="$1" -v against="$2" -v target="$3" -v format="${4:-%.3f}" '
        { value[NR] = $1 }
        END {
            median = NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2
            split(target, part, " ")
            verdict = part[1] == ">=" ? (median >= part[2] ? "ok" : "short") : \
                part[1] == "<=" ? (median <= part[2] ? "ok" : "short") : ""
            printf "%-58s  %-30s  %10s  %10s  %10s  %-9s  %s\n", question, against,
                sprintf(format, median), sprintf(format, value[1]), sprintf(format, value[NR]), target, verdict
        }' | tee -a "${BENCH_LINES:-/dev/null}"
}

head_line() {
    printf '%-58s  %-30s  %10s  %10s  %10s  %-9s  %s\n' question against median smallest largest target ""
}

# Prints figures with a text before them, for details beyond the table.
tell() { echo "# $*" >&2; }

# About 150 bytes, like the context of a web application.
context='{"userId": 187234, "endpoint": "/api/v1/todo/complete", "requestId": "9f1c2d34-5b6a-4c7d-8e9f-0a1b2c3d4e5f", "params": {"id": 26, "done": true}}'
