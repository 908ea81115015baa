"""What the S3 store is made of: docs/decisions/s3-segments.md tells how it fits together."""
