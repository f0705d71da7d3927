"""What all tests share. Servers for tests are fixtures of the plugin `tests.servers`."""

pytest_plugins = ["tests.explorer.explored", "tests.servers"]
