"""The HTTP server, batch scores, and the deployment checks that need a server."""
