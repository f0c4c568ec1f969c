# Starts PgBouncer for the tests of clients, in transaction mode with four connections of the server for each database. Sourced by
# the scripts "run": start_pooler DIRECTORY, where the socket is and which BEMI_POOLER names, and stop_pooler. Without PgBouncer,
# BEMI_POOLER is not set.

# No other user can enter the directory of the socket, so "any" is safe.
start_pooler() {
    local path=$PATH:/usr/sbin:/usr/local/sbin
    if ! PATH=$path command -v pgbouncer >/dev/null; then
        [ "${BEMI_CLIENTS:-}" != required ] && return
        echo "PgBouncer is not installed" >&2
        return 1
    fi
    cat >"$1/pgbouncer.ini" <<-INI
	[databases]
	* = host=$PGHOST user=$PGUSER
	[pgbouncer]
	listen_addr =
	listen_port = 6432
	unix_socket_dir = $1
	auth_type = any
	pool_mode = transaction
	default_pool_size = 4
	max_client_conn = 400
	INI
    PATH=$path pgbouncer --quiet "$1/pgbouncer.ini" >"$1/pgbouncer.log" 2>&1 &
    pooler=$!
    export BEMI_POOLER=$1
}

stop_pooler() { [ -z "${pooler:-}" ] || kill "$pooler" 2>/dev/null || true; }
