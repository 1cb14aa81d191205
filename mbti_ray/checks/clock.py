"""Whether the clocks of the machines agree."""

from collections.abc import Mapping

from mbti_ray.checks.verdict import Verdict, join_names

# The newest checkpoint and the newest run are found by their modification time.
_WARN_FROM_S = 2.0
# Stores refuse signatures that are 15 minutes off, and certificates may be invalid.
_WRONG_FROM_S = 300.0
_REMEDY = "enable time synchronization there (timedatectl set-ntp true, or chrony)"


def min_skew_s(reported: float, asked: float, answered: float) -> float:
    """The least skew of a clock that read `reported` between two times of our own; + is ahead."""
    return max(reported - answered, 0.0) or min(reported - asked, 0.0)


def judge_clocks(skews: Mapping[str, float]) -> Verdict:
    """The clocks of a cluster, by the least skew of each machine, in seconds."""
    off = {machine: s for machine, s in skews.items() if abs(s) >= _WARN_FROM_S}
    if not off:
        return Verdict("clock", "ok", f"no node is off by {_WARN_FROM_S:g} s or more")
    skewed = join_names(f"{machine} by {s:+.0f} s" for machine, s in off.items())
    is_wrong = max(map(abs, off.values())) >= _WRONG_FROM_S
    return Verdict("clock", "wrong" if is_wrong else "warning", f"off, at least: {skewed}", _REMEDY)
