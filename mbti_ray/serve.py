"""`python -m mbti_ray.serve`: the HTTP service, or a roll-out to a running one."""

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack

from mbti_ray.cli.command import build_parser, relative, run_command, split_base
from mbti_ray.cli.next_commands import ask_command, watch_commands
from mbti_ray.cli.progress import print_opening, step
from mbti_ray.cli.tables import Result, print_commands, print_line, print_warning
from mbti_ray.config import load_run
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.errors import ClusterError, ConfigError
from mbti_ray.runs.lookup import fetch_bundle, locate_bundle
from mbti_ray.serving.discovery import read_ray_environment
from mbti_ray.storage.remote import Location

# The overrides that --roll-out accepts.
_CHANGEABLE = ("serve.beside=", "serve.beside_share=", "storage=")
# Identifies a service on this machine.
_PORT = "serve.port="


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "serve",
        "Serve a bundle over HTTP. Without arguments: the newest best bundle under ./runs.",
        items="a bundle, run or study folder, then key=value, such as serve.port=9000",
        examples=(
            "runs/mine",
            "runs/mine serve.port=9000 serve.runtime=onnx-int8",
            "--roll-out runs/better        # in a running service",
            "--roll-back",
        ),
    )
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--roll-out",
        action="store_true",
        help="switch the running service to this bundle, without downtime",
    )
    change.add_argument(
        "--roll-back", action="store_true", help="switch it back to the previous bundle"
    )
    parser.add_argument(
        "--gate",
        metavar="FILE",
        help="with --roll-out: refuse the bundle if it is worse than the one that is served, on "
        "the people of this labeled file, by more than chance explains",
    )
    return run_command(parser, _serve, argv)


def resolve(place: str | None, overrides: Sequence[str]) -> tuple[Location, ServeConfig]:
    """The bundle at `place`, by default the newest best one under `storage`, and its config.

    ConfigError where an override does not apply to a service, RunError where there is no bundle.
    """
    for item in overrides:
        if not item.startswith(("serve.", "storage=")):
            raise ConfigError(f'"{item}" does not apply to a service; allowed: serve.*, storage')
    config = load_run(None, overrides)
    return locate_bundle(place, config.storage), config.serve


def _serve(options: argparse.Namespace) -> Result:
    place, overrides = split_base(options.items)
    if options.gate and not options.roll_out:
        raise ConfigError("command line: --gate FILE goes with --roll-out")
    if options.roll_out or options.roll_back:
        return _change(place, overrides, back=options.roll_back, gate=options.gate)
    bundle, config = resolve(place, overrides)

    from mbti_ray.inference.manifest import load_manifest

    load_manifest(fetch_bundle(bundle))
    print_opening()
    print_line(f"serving {relative(bundle)}")

    def announce(url: str, dashboard: str | None) -> None:
        starting.close()
        print_line(f"{url}/ is ready; Ctrl-C stops it")
        print_commands({"ask": ask_command(url), **watch_commands(dashboard)})

    # Importing on_ray sets variables of Ray: not before the arguments are known to be right.
    from mbti_ray.on_ray.serve.haproxy import haproxy_environment

    with haproxy_environment(config), ExitStack() as starting:
        starting.enter_context(step("starting Ray and the replicas"))
        from mbti_ray.on_ray.serve.service import run_service

        run_service(bundle, config, on_ready=announce, notify=print_warning)


def _change(place: str | None, overrides: Sequence[str], *, back: bool, gate: str | None) -> Result:
    keys = (_PORT,) if back else (*_CHANGEABLE, _PORT)
    if back and place:
        raise ConfigError(
            f"command line: --roll-back takes no bundle, got {place}; --roll-out takes one"
        )
    for item in overrides:
        if not item.startswith(keys):
            allowed = ", ".join(key.removesuffix("=") for key in keys)
            raise ConfigError(f'"{item}" cannot change while the service runs; allowed: {allowed}')
    config = load_run(None, overrides)
    bundle = None if back else locate_bundle(place, config.storage)
    if "RAY_ADDRESS" not in os.environ:
        variables = read_ray_environment(config.serve.port)
        if variables is None:
            raise ClusterError(
                f"serve.port={config.serve.port}: no service on this machine uses that port; "
                "start one with `python -m mbti_ray.serve`, or set RAY_ADDRESS to its cluster"
            )
        os.environ.update(variables)

    from mbti_ray.on_ray.serve.service import change_target

    def check(served: str) -> None:
        if bundle is not None and gate is not None:
            from mbti_ray.inference.comparison import require_no_worse

            folders = fetch_bundle(served), fetch_bundle(bundle)
            if folders[0] == folders[1]:
                # It may have been replaced since: then it would be compared with itself.
                raise ConfigError(
                    f"{bundle}: the bundle that is served was loaded from there, so --gate has no "
                    "two bundles to compare; put the new one into another folder"
                )
            print_line(require_no_worse(*folders, gate))

    target = change_target(bundle, config.serve, check=check)
    print_line(f"now serving {target.describe()}")
    return {"front": target.primary, "beside": target.canary, "share": target.canary_share}


if __name__ == "__main__":
    raise SystemExit(main())
