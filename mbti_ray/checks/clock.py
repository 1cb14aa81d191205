"""Whether the clocks of the machines agree."""

from collections.abc import Mapping

from mbti_ray.checks.verdict import State, Verdict

_CHECK = "clock"
# The newest checkpoint and the newest run are found by their time.
_WARN_FROM_S = 2.0
# Stores refuse requests that are signed a quarter of an hour off; certificates begin to fail.
_WRONG_FROM_S = 300.0
_SHOWN = 4
_REMEDY = "switch on time synchronisation there (timedatectl set-ntp true, or chrony)"


def least_skew_s(told: float, asked: float, answered: float) -> float:
    """How far a clock is off at least, if it said `told` somewhere between two times of ours.

    Positive: ahead.
    """
    if told > answered:
        return told - answered
    return min(told - asked, 0.0)


def judge_clocks(skews: Mapping[str, float]) -> list[Verdict]:
    """Of the machines of a cluster, by what each is off at least, in seconds."""
    off = {machine: s for machine, s in skews.items() if abs(s) >= _WARN_FROM_S}
    if not off:
        return [Verdict(_CHECK, "ok", f"no node is off by {_WARN_FROM_S:g} s or more")]
    said = ", ".join(f"{machine} by {s:+.0f} s" for machine, s in sorted(off.items())[:_SHOWN])
    more = f" and {len(off) - _SHOWN} more" if len(off) > _SHOWN else ""
    state: State = "wrong" if max(map(abs, off.values())) >= _WRONG_FROM_S else "warning"
    return [Verdict(_CHECK, state, f"off, at least: {said}{more}", _REMEDY)]
