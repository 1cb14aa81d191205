"""A real S3 server on loopback, for tests of storage by URL."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

import pytest

# What is in the environment of a machine that may use the server.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Server:
    """A server with one bucket; what is in it outlives `moto`.

    Attributes:
        endpoint: Its address.
        moto: What answers there.
    """

    endpoint: str
    moto: Any

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody answers at its address in the block."""
        host, port = self.moto.get_host_and_port()
        self.moto.stop()
        yield
        self.moto = type(self.moto)(ip_address=host, port=port, verbose=False)
        self.moto.start()

    @property
    def url(self) -> str:
        return "s3://bucket"

    def address(self, key: str) -> str:
        """The URL of a key for a process that knows nothing of the server."""
        host = self.endpoint.partition("://")[2]
        return f"{self.url}/{key}?endpoint_override={host}&scheme=http&region=us-east-1"

    def keys(self, prefix: str = "") -> set[str]:
        """The names of all objects below a prefix, asked with another client."""
        import boto3

        client = boto3.client("s3", endpoint_url=self.endpoint)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
        return {item["Key"] for page in pages for item in page.get("Contents", ())}


@contextmanager
def s3_server() -> Iterator[Server]:
    """The server, with its address and the credentials in this process's environment."""
    moto_server = pytest.importorskip("moto.server")
    import boto3

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = Server(f"http://{host}:{port}", server)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": found.endpoint}.items():
                patch.setenv(name, value)
            boto3.client("s3").create_bucket(Bucket="bucket")
            yield found
    finally:
        # It looks twice a second whether it should; nobody waits for that.
        Thread(target=found.moto.stop, daemon=True).start()
