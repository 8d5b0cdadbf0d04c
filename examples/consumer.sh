#!/usr/bin/env bash
# A correct consumer with curl and jq: it joins, reads, prints, and commits only what it has printed.
#
#     examples/consumer.sh GROUP TOPIC [MEMBER]
#
# SESSION_TIMEOUT_MS says after which silence the others take over, such as 5000; the server's default if not set.
# Start it in several terminals: they share the partitions. Kill one: the others take over. Its rules are those of
# every consumer: commit after the work is done, send again what had no answer, join again when told to (409).
set -uo pipefail

group=${1:?group} topic=${2:?topic} member=${3:-$(hostname)-$$}
url=${MILLRACE_URL:-http://localhost:8400}/v1/groups/$group/members
body=$(mktemp)
trap 'rm -f "$body"; curl -sS -X DELETE "$url/$member"' EXIT
trap exit INT TERM

call() { # PATH JSON: leaves the answer in $body; fails unless it is 2xx
    status=$(curl -sS --json "$2" -o "$body" -w '%{http_code}' "$url$1") && [[ $status == 2* ]]
}

join() {
    call "" "$(jq -nc --arg t "$topic" --arg m "$member" --argjson s "${SESSION_TIMEOUT_MS:-null}" \
        '{topics: [$t], member_id: $m} + if $s then {session_timeout_ms: $s} else {} end')"
}

until join; do sleep 1; done
epoch=$(jq .member_epoch "$body")
commit='[]'
while true; do
    # Without `owned` a poll says that nothing is in work any more, so revoked partitions are free at once.
    if call "/$member/poll" "{\"member_epoch\":$epoch,\"commit\":$commit,\"max_wait_ms\":5000}"; then
        epoch=$(jq .member_epoch "$body")
        jq -c '.records[]' "$body" # the work
        commit=$(jq -c .next_offsets "$body")
    elif [[ $status == 409 ]]; then
        # Stale, fenced or expired: what was not committed is read again by whoever has the partition now.
        commit='[]'
        until join; do sleep 1; done
        epoch=$(jq .member_epoch "$body")
    else
        sleep 1 # no answer, or a server in trouble: the same again
    fi
done
