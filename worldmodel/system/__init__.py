"""The operating system: files, signals, exit statuses, the cache of compiled programs."""
