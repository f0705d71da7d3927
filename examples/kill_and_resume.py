"""Kill, write, resume: where a hand-written cache serves the old value, the proxy does not."""

from zddm_adapters import InMemoryAdapter
from zddm_flags import Proxy, TrafficGate

gate = TrafficGate(1.0)
proxy = Proxy(gate, InMemoryAdapter({"ada": "v1"}), InMemoryAdapter())

proxy.read("ada")  # copied into New
gate.set_rate(0.0)  # kill: everything is on Old
proxy.write("ada", "v2")  # New misses this
gate.set_rate(1.0)  # resume

value = proxy.read("ada")
print(f"after the resume: {value} (New still held v1)")
if value != "v2":
    raise SystemExit("a stale read")
