"""What the gateway is made of: keys, chats, model names, wire errors, event streams, metrics."""
