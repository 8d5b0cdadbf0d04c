#!/usr/bin/env bash
# Starts the standby; the first time, it copies the primary.
set -euo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    rm -rf "${PGDATA:?}"/*
    PGPASSWORD="$REPLICATION_PASSWORD" pg_basebackup \
        --dbname="host=postgres user=replication application_name=standby" \
        --pgdata="$PGDATA" --checkpoint=fast --wal-method=stream --slot=standby --write-recovery-conf
    chmod 0700 "$PGDATA"
fi
exec postgres
