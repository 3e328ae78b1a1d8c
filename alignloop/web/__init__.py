"""What both servers share: a listening socket, uvicorn on it, and bounded connections."""
