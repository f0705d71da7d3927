"""How gunicorn serves flask_service: made once in the parent, and made good in each worker after its fork."""

import atexit

import flask_service
from service_settings import send_traces

wsgi_app = "flask_service:app"
preload_app = True
worker_class = "gthread"
workers = 2
threads = flask_service.THREADS


def post_fork(_server: object, _worker: object) -> None:
    """In each worker, also in one that takes the place of a killed one."""
    for engine in flask_service.engines:
        engine.dispose(close=False)  # the connections are the parent's: two processes on one mix up answers
    flask_service.client.postfork()  # the threads are the parent's too: without this the gate stays closed
    flask_service.source.postfork()  # after the client's
    atexit.register(send_traces())  # runs last
    atexit.register(close)  # and not in worker_exit(), which gunicorn may call in the parent too


def on_exit(_server: object) -> None:
    """In the parent, when the workers have ended."""
    close()


def close() -> None:
    """The proxy first, then what it uses."""
    flask_service.users.close()
    flask_service.source.close()
    flask_service.client.close()
    for engine in flask_service.engines:
        engine.dispose()
