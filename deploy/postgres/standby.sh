#!/usr/bin/env bash
# Starts the standby; the first time, it copies the primary.
set -euo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    rm -rf "${PGDATA:?}"/*
    PGPASSWORD="$REPLICATION_PASSWORD" pg_basebackup \
        --dbname="host=postgres user=replication" \
        --pgdata="$PGDATA" --checkpoint=fast --wal-method=stream --slot=standby --write-recovery-conf
    chmod 0700 "$PGDATA"
    # The name under which the primary knows it, and no standby of its own to wait for when it is promoted.
    printf '%s\n' "cluster_name = 'standby'" "synchronous_standby_names = ''" >> "$PGDATA/postgresql.auto.conf"
fi
exec postgres
