#!/bin/bash
# Drains this node in Ray as soon as its cloud announces that the machine will be reclaimed. Ray
# then schedules nothing on it, and a run saves a checkpoint in time. Ends at once on a machine that
# cannot be reclaimed. Works on AWS (spot) and Google Cloud (spot, preemptible).
set -u
# The metadata service of the cloud. Tests set another address and other times.
metadata=${METADATA_URL:-http://169.254.169.254}
# The interval that the clouds recommend.
poll_s=${POLL_S:-5}

get() { curl --silent --fail --max-time 2 "$@"; }

aws() {
    local session
    session=$(get --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 300' \
        "$metadata/latest/api/token") || return 1
    get --header "X-aws-ec2-metadata-token: $session" "$metadata/latest/meta-data/$1"
}
google() { get --header 'Metadata-Flavor: Google' "$metadata/computeMetadata/v1/instance/$1"; }

if [ "$(aws instance-life-cycle)" = spot ]; then
    left_s=${LEFT_S:-120}
    is_leaving() { aws spot/instance-action > /dev/null; }
elif [ "$(google scheduling/preemptible)" = TRUE ]; then
    left_s=${LEFT_S:-30}
    is_leaving() { [ "$(google preempted)" = TRUE ]; }
else
    echo "not a machine that is taken away with notice"
    exit 0
fi

echo "waiting for notice"
until is_leaving; do sleep "$poll_s"; done
echo "noticed; $left_s s are left"
# Without --node-id it drains its own node.
export RAY_ADDRESS="$RAY_HEAD_IP:6379"
ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --deadline-remaining-seconds "$left_s" \
    --reason-message "the cloud takes this machine away" && echo "Ray knows"
