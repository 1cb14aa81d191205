# What every process of the cluster, and every shell on its nodes, has in its environment.
# Sourced before each `ray start` and from ~/.bashrc; clusters/settings.yaml has the same values.

# `ray start --head` asks for a token by itself where it finds one, `ray start --address` never does
# and is then refused, while `ray up` says that all is well.
export RAY_AUTH_MODE=token
# Ray remembers nothing of runs without it (/api/train/v2/runs/v1 on the dashboard's port).
export RAY_TRAIN_ENABLE_STATE_TRACKING=1
# HAProxy instead of Ray's own proxy: 5 times the requests a second on two cores. Read when
# ray.serve is imported, on the nodes that run proxies and replicas.
export RAY_SERVE_ENABLE_HA_PROXY=1
export RAY_SERVE_THROUGHPUT_OPTIMIZED=1
# A line for each request is what the log files are for.
export RAY_SERVE_LOG_TO_STDERR=0
# Asking twice does no harm here: what a lost replica leaves unanswered goes to another one.
export RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response junk-response"
# Ray gives load balancers of other makers 30 s to notice that a replica goes; HAProxy is told.
export RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=1
# Gloo, which training on CPUs speaks, listens where the host's own name leads; on Debian and Ubuntu
# that is loopback, and ranks on two machines never meet.
GLOO_SOCKET_IFNAME=$(ip -o route get "${RAY_HEAD_IP:-8.8.8.8}" | sed -n 's/.* dev \([^ ]*\) .*/\1/p')
export GLOO_SOCKET_IFNAME
export PATH="$HOME/venv/bin:$PATH"
