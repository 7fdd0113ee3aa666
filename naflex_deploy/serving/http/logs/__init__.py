"""What a server says of its requests: lines of its log, and traces."""
