#!/bin/bash
# Stops Ray on an on-premise worker soon after `ray down`, which stops it on the head only: a worker
# notices that after minutes, and its log monitor never ends. In a cloud the machine is terminated.
# Started after `ray start`; ends with the Ray that was started then, not with a later one.
set -u
source "$(dirname "$0")/environment.sh"
raylet=$(pgrep --newest --exact raylet) || exit 1
monitor=$(pgrep --newest --full ray/_private/log_monitor.py) || exit 1
# A head that refuses the connection has no Ray any more; one that does not answer may only be cut
# off for a while, and Ray itself decides about that.
is_gone() {
    timeout 2 bash -c "exec 3<> /dev/tcp/$RAY_HEAD_IP/6379" 2>&1 | grep --quiet refused
}
refusals=0
while kill -0 "$raylet" 2> /dev/null && [ "$refusals" -lt 5 ]; do
    sleep 2
    if is_gone; then refusals=$((refusals + 1)); else refusals=0; fi
done
kill "$monitor" 2> /dev/null
[ "$refusals" -lt 5 ] || ray stop
