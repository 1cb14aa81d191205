# The environment of every process of the cluster, and of every shell on its nodes.
# Sourced before each `ray start` and from ~/.bashrc; clusters/settings.yaml has the same values.

# `ray start --head` requires a token if it finds one; `ray start --address` never presents it by
# itself and is then refused, while `ray up` reports success.
export RAY_AUTH_MODE=token
# Without it Ray records no runs (/api/train/v2/runs/v1 on the dashboard's port).
export RAY_TRAIN_ENABLE_STATE_TRACKING=1
# HAProxy instead of Ray's own proxy: 5 times the requests a second on two cores. Read when
# ray.serve is imported, on the nodes that run proxies and replicas.
export RAY_SERVE_ENABLE_HA_PROXY=1
export RAY_SERVE_THROUGHPUT_OPTIMIZED=1
# A log line for each request belongs in the log files.
export RAY_SERVE_LOG_TO_STDERR=0
# Requests are idempotent: those of a lost replica are sent to another one.
export RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response junk-response"
# Ray gives external load balancers 30 s to notice that a replica stops; HAProxy is notified.
export RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=1
# A client that sends nothing for so long is disconnected (one hour by default); a little above
# serve.deadline_s, so that a slow request gets the service's own 504.
export RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S=35
# The admin socket of HAProxy has mode 666: other users of the node must not reach its folder.
mkdir -p ~/.haproxy && chmod 700 ~/.haproxy
export RAY_SERVE_HAPROXY_CONFIG_FILE_LOC=~/.haproxy/haproxy.cfg
export RAY_SERVE_HAPROXY_SOCKET_PATH=~/.haproxy/admin.sock
export RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH=~/.haproxy/metrics.sock
export RAY_SERVE_HAPROXY_SERVER_STATE_BASE=~/.haproxy/state
export RAY_SERVE_HAPROXY_SERVER_STATE_FILE=~/.haproxy/state/servers
# Gloo, used by training on CPUs, binds to the address of the host name; on Debian and Ubuntu that
# is loopback, and ranks on two machines cannot connect.
GLOO_SOCKET_IFNAME=$(ip -o route get "${RAY_HEAD_IP:-8.8.8.8}" | sed -n 's/.* dev \([^ ]*\) .*/\1/p')
export GLOO_SOCKET_IFNAME
export PATH="$HOME/venv/bin:$PATH"
