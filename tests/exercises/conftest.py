from collections.abc import Iterator

import pytest

from myllm.grading.client import Worker


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()
