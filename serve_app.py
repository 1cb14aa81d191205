"""The application for `serve run`: `serve run serve_app:app bundle=BUNDLE serve.replicas=2`.

Without bundle=... it serves the newest best bundle under storage=... (./runs). Host and port are
Serve's: 127.0.0.1:8000 unless `http_options` in a Serve config file sets others. The fast path
needs RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_THROUGHPUT_OPTIMIZED=1 in the environment; with
them, `serve run` listens on all interfaces (`python -m mbti_ray.serve` does not).
"""

from collections.abc import Mapping

import click
from ray.serve import Application

from mbti_ray.errors import MbtiRayError
from mbti_ray.on_ray.serve.deployment import build_app
from mbti_ray.serve import resolve


class InputError(click.ClickException):
    """A user error, which `serve run` prints as one line."""

    exit_code = 2


def app(args: Mapping[str, object]) -> Application:
    """The application that `serve run` and Serve config files start.

    Args:
        args: `bundle`, `storage` and `serve.*`.

    Raises:
        InputError: An argument is wrong, or there is no bundle.
    """
    given = {key: str(value) for key, value in args.items()}
    bundle = given.pop("bundle", None)
    for key in ("serve.host", "serve.port"):
        if key in given:
            raise InputError(
                f"{key} has no effect here: set http_options in a Serve config file, "
                "or use `python -m mbti_ray.serve`"
            )
    try:
        folder, config = resolve(bundle, [f"{key}={value}" for key, value in given.items()])
        # The host that Serve binds to is unknown here, so the Host header is not checked.
        built = build_app(folder, config.model_copy(update={"host": "0.0.0.0"}))
    except MbtiRayError as error:
        raise InputError(str(error)) from None
    click.echo(f"serving {folder}")
    return built
