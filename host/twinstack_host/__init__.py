"""What an application imports: sockets over a HostLink."""
