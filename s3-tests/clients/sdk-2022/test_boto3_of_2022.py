"""boto3 from before default checksums."""

import pytest
from boto import client, live


@pytest.mark.parametrize("signed", [True, False, None])
def test_a_life(store, bucket, tmp_path, signed):
    live(client(store, s3={"addressing_style": "path", "payload_signing_enabled": signed}), bucket, tmp_path)


def test_a_life_by_signature_version_2(store, bucket, tmp_path):
    live(client(store, signature_version="s3"), bucket, tmp_path)
