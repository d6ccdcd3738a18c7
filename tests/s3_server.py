"""An S3 server on the loopback, for as long as a test needs it: moto, in a process of its own."""

import os
import sys
from pathlib import Path
from typing import Self
from xml.etree import ElementTree as ET

import httpx

from tests.ports import free_port
from tests.program import Program, until

KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # Amazon's own example


class S3Server:
    """A server with nothing in it.

    Args:
        folder: Its log is written there.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "s3.log"
        self._port = free_port()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self._program = Program(command, self._log, env=inherited)
        try:
            until(self._answers, "the S3 server is up", 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self.kill()

    def kill(self) -> None:
        self._program.kill()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs, in the variables that Amazon's own tools read."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": str(self._client.base_url).rstrip("/"),
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }

    def bucket(self, name: str) -> str:
        """Make a bucket, and return its URL."""
        self._client.put(f"/{name}").raise_for_status()
        return f"s3://{name}"

    def keys(self, bucket: str) -> list[str]:
        """The objects that others see."""
        return self._listed(bucket, "list-type=2", "Key")

    def uploads(self, bucket: str) -> list[str]:
        """The uploads that were neither completed nor given up."""
        return self._listed(bucket, "uploads", "UploadId")

    def _listed(self, bucket: str, query: str, tag: str) -> list[str]:
        answer = self._client.get(f"/{bucket}?{query}").raise_for_status()
        elements = ET.fromstring(answer.text).iter()
        return [element.text or "" for element in elements if element.tag.rpartition("}")[2] == tag]

    def _answers(self) -> bool:
        assert not self._program.ended, self._program.said()
        try:
            return self._client.get("/").is_success
        except httpx.HTTPError:
            return False
