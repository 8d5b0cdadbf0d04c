#!/usr/bin/env bash
# A consumer with curl and jq: it joins a group, polls, prints the records, and commits only printed records.
#
#     examples/consumer.sh GROUP TOPIC [MEMBER]
#
# SESSION_TIMEOUT_MS, such as 5000, is the time without a poll after which the other members take over; by default the
# server's. Start it in several terminals, and they share the partitions. Kill one, and the others take over. It follows
# the rules of every consumer: commit after the work, repeat a request without an answer, join again after a 409.
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
    # A poll without `owned` confirms that no record is in work: revoked partitions are free at once.
    if call "/$member/poll" "{\"member_epoch\":$epoch,\"commit\":$commit,\"max_wait_ms\":5000}"; then
        epoch=$(jq .member_epoch "$body")
        jq -c '.records[]' "$body" # the work
        commit=$(jq -c .next_offsets "$body")
    elif [[ $status == 409 ]]; then
        # Stale, fenced or expired: uncommitted records are delivered again to the new owner of the partition.
        commit='[]'
        until join; do sleep 1; done
        epoch=$(jq .member_epoch "$body")
    else
        sleep 1 # no answer or a server error: repeat the request
    fi
done
