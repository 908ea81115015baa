"""What `streamstores.client` is made of: judging answers, parsing events."""
