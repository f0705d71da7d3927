"""How an application tests its own ramp and kill: the real LaunchDarkly SDK, a local server, no account."""

import threading

from ldclient import Context

from zddm_adapters import InMemoryAdapter
from zddm_flags import LaunchDarklySource, Proxy, TrafficGate
from zddm_flags.testing import FlagServer


def wait_for(source: LaunchDarklySource, rate: float) -> None:
    """Return once the source has followed the flag to `rate`."""
    reached = threading.Event()
    unsubscribe = source.subscribe(lambda rollout: reached.set() if rollout.read == rate else None)
    if not reached.wait(timeout=10):
        raise SystemExit(f"the rate {rate} did not arrive")
    unsubscribe()


context = Context.builder("users-service").kind("service").build()
with FlagServer({"users-rate": 0.0}) as flags, LaunchDarklySource(flags.client(), "users-rate", context) as source:
    old, new = InMemoryAdapter({"ada": 1815}), InMemoryAdapter[str, int]()
    proxy = Proxy(TrafficGate(source), old, new)
    proxy.read("ada")
    print(f"at 0 New has {new.read('ada')}")

    flags.set("users-rate", 1.0)
    wait_for(source, 1.0)
    proxy.read("ada")
    print(f"at 1 New has {new.read('ada')}")

    flags.turn_off("users-rate")
    wait_for(source, 0.0)
    proxy.write("ada", 1852)
    print(f"after the kill New has {new.read('ada')} and a read returns {proxy.read('ada')}")
