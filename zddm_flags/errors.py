"""Every error that zddm-flags raises of its own.

::

    Exception
     └─ ZddmError
         ├─ InvalidKey (TypeError)          a key that has no canonical encoding, or is too long
         ├─ InvalidRollout (ValueError)     a rate that is not a number in [0, 1], or read above write
         ├─ GateIsLive (TypeError)          set_rate on a gate whose rate comes from a flag
         ├─ Unsupported (TypeError)         the store cannot do what was asked of it
         ├─ LedgerUnavailable               the ledger did not answer; Old was not touched
         ├─ LedgerMismatch                  what the ledger holds is another's, or was lost
         ├─ LedgerNotShared                 a job that many processes see needs a ledger that they share
         ├─ CorruptCheckpoint               what a job kept in the ledger cannot be understood
         ├─ Superseded                      another process took the job over
         ├─ ExecutorFailed                  what runs a job's parts elsewhere lost a worker, or cannot run them
         ├─ ResetRefused                    the ledger must not be cleared now; nothing was
         ├─ OperationTimedOut               the time for the operation ran out before Old was written
         ├─ ProxyClosed                     an operation on a proxy after close()
         ├─ BadTarget                       `module:attribute` names no proxy
         ├─ NotForked                       postfork() before the LaunchDarkly client's own postfork()
         └─ NotApplied                      raised by an adapter or ledger: this call certainly took no effect
             └─ ValueRefused                and that for its key or value alone: the store is well

What a store raises is not wrapped: an error of Old reaches the caller as it is, an error of New is reported
(span, metric, log) and never reaches the caller.
"""

__all__ = [
    "BadTarget",
    "CorruptCheckpoint",
    "ExecutorFailed",
    "GateIsLive",
    "InvalidKey",
    "InvalidRollout",
    "LedgerMismatch",
    "LedgerNotShared",
    "LedgerUnavailable",
    "NotApplied",
    "NotForked",
    "OperationTimedOut",
    "ProxyClosed",
    "ResetRefused",
    "Superseded",
    "Unsupported",
    "ValueRefused",
    "ZddmError",
]


class ZddmError(Exception):
    """Base of all errors of this library."""


class InvalidKey(ZddmError, TypeError):
    """The key has no canonical encoding, or is too long. The message names the type, never the key."""


class InvalidRollout(ZddmError, ValueError):
    """A rate is not a finite number from 0 to 1, or the read rate is above the write rate."""


class GateIsLive(ZddmError, TypeError):
    """The gate's rate comes from a live source, so that code cannot set it. Change the flag instead."""


class Unsupported(ZddmError, TypeError):
    """The adapter lacks a method that this needs, or the server cannot hold a ledger. Nothing was done."""


class LedgerUnavailable(ZddmError):
    """The ledger could not be reached before Old was touched: neither store was changed. Safe to retry."""


class LedgerMismatch(ZddmError):
    """What the ledger holds is not this migration's, or not all of it; the message says what to do.

    It was written with another hasher, encoding or schema version, cannot be understood, or was lost.
    """


class LedgerNotShared(ZddmError):
    """The proxy has a ledger in memory, which no other process sees and which ends with this one."""


class CorruptCheckpoint(ZddmError):
    """What a job kept in the ledger to go on from cannot be understood; the message says how to begin anew."""


class Superseded(ZddmError):
    """Another process has taken this job over, and goes on from where this one was. Nothing is lost."""


class ExecutorFailed(ZddmError):
    """What runs the parts of a job elsewhere lost a worker, or cannot run them; the message says how to go on."""


class ResetRefused(ZddmError):
    """The ledger was not cleared, for New may hold what it must go on distrusting. The message says what to do."""


class OperationTimedOut(ZddmError):
    """`max_operation_seconds` ran out before Old was written: neither store was changed. Safe to retry.

    In the middle of a batch that Old takes key by key, the keys before may be written; the message says so.
    """


class ProxyClosed(ZddmError):
    """The proxy was closed; it takes no more operations."""


class BadTarget(ZddmError):
    """What was named as `module:attribute` is not there, or is no proxy and makes none."""


class NotForked(ZddmError):
    """`LaunchDarklySource.postfork()` was called before the LaunchDarkly client's own `postfork()`."""


class NotApplied(ZddmError):
    """An adapter raises this where it is certain that a write did not take effect and never will.

    Raise it `from` the store's own error. The proxy then knows that the call cannot land late, so it settles
    the key at once instead of waiting for the operation's time to pass. The caller of the proxy gets the
    store's own error (the `__cause__`), or this one where there is no cause.
    """


class ValueRefused(NotApplied):
    """An adapter raises this instead where the store would take another key or value: it is well.

    A constraint, a text that is too long, a value that cannot be encoded. A guard counts no such call as a
    failure of New, so that a few rows that New cannot take do not keep all others from it.
    """
