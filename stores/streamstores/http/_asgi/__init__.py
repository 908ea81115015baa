"""What all handlers share: the ASGI application around them, and nothing of any of them."""
