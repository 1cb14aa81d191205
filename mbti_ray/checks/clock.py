"""Whether the clocks of the machines agree."""

from collections.abc import Mapping

from mbti_ray.checks.verdict import State, Verdict

_CHECK = "clock"
# The newest checkpoint and the newest run are found by their modification time.
_WARN_FROM_S = 2.0
# Stores refuse signatures that are 15 minutes off, and certificates may be invalid.
_WRONG_FROM_S = 300.0
_SHOWN = 4
_REMEDY = "enable time synchronization there (timedatectl set-ntp true, or chrony)"


def least_skew_s(reported: float, asked: float, answered: float) -> float:
    """The least skew of a clock that read `reported` between two times of our own.

    Positive: ahead.
    """
    if reported > answered:
        return reported - answered
    return min(reported - asked, 0.0)


def judge_clocks(skews: Mapping[str, float]) -> list[Verdict]:
    """The clocks of a cluster, by the least skew of each machine, in seconds."""
    off = {machine: s for machine, s in skews.items() if abs(s) >= _WARN_FROM_S}
    if not off:
        return [Verdict(_CHECK, "ok", f"no node is off by {_WARN_FROM_S:g} s or more")]
    skewed = ", ".join(f"{machine} by {s:+.0f} s" for machine, s in sorted(off.items())[:_SHOWN])
    more = f" and {len(off) - _SHOWN} more" if len(off) > _SHOWN else ""
    state: State = "wrong" if max(map(abs, off.values())) >= _WRONG_FROM_S else "warning"
    return [Verdict(_CHECK, state, f"off, at least: {skewed}{more}", _REMEDY)]
