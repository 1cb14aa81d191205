#!/bin/bash
# Ends what Ray would leave on an on-premise worker for good. `ray down` stops Ray on the head only;
# a worker misses it after a minute and ends, but its log monitor stays. On a cloud the whole machine
# goes. Started after `ray start`; ends with the Ray that was started then, not with a later one.
set -u
raylet=$(pgrep --newest --exact raylet) || exit 1
monitor=$(pgrep --newest --full ray/_private/log_monitor.py) || exit 1
tail --pid="$raylet" --follow /dev/null
kill "$monitor" 2> /dev/null
