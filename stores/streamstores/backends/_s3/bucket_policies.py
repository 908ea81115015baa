"""The two documents that an S3 account needs."""

from __future__ import annotations

from typing import Any

from streamstores.backends._s3.s3_options import S3Options


def lifecycle_rule(options: S3Options) -> dict[str, Any]:
    """A rule for the bucket's lifecycle. It removes what a killed process left of a multipart
    upload and, if the bucket keeps versions, what the store has removed."""
    return {
        "ID": f"streamstores-{options.prefix.rstrip('/') or 'all'}",
        "Status": "Enabled",
        "Filter": {"Prefix": options.prefix},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }


def iam_policy(options: S3Options) -> dict[str, Any]:
    """The fewest rights that the store needs. Without `s3:ListBucket`, S3 answers 403 instead
    of 404 for an object that does not exist, and nothing works."""
    bucket = f"arn:aws:s3:::{options.bucket}"
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": actions,
                "Resource": f"{bucket}/{options.prefix}*",
            },
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": bucket},
        ],
    }
