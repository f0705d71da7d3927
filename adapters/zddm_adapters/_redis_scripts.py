"""The ledger on Redis: its Lua scripts, and what needs no I/O around them.

The rows of a migration are five Redis keys with one hash tag, so that a cluster keeps them in one slot:

- `meta`, a hash: the version of this schema, the gate's identity, the incarnation (random, made with the rows),
  `opened` as the text of a double, how long tokens are kept, the epoch, how many tokens were reaped, how many keys
  are stale, and the sizes of the next three. Sizes that do not match are how a loss of some of the rows is seen,
  be it by eviction or by somebody's DEL.
- `entries`, a hash: a dirty key -> `s` if it is stale or `-`, `c` if it is contended or `-`, and its tokens, with
  commas between.
- `pending`, a sorted set of `token:key` by the server's time of their begin, in microseconds.
- `tokens`, a hash: a token -> on how many keys it is pending.
- `checkpoints`, a hash: a name -> its version, when it was saved by the server's time, in microseconds, and its
  data, with spaces between. No promise is lost with it. Only the scripts that touch it are told of it.

Every script looks at everything that it will change before it changes anything, since Redis does not undo what a
script did before an error. All scripts count as writing (none has the flag `no-writes`), so that a read-only
replica, which may lag, refuses even those that would change nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterError,
    MaxConnectionsError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from zddm_flags.errors import InvalidKey, LedgerMismatch, Unsupported
from zddm_flags.ledger import (
    MAX_KEY_BYTES,
    MAX_TOKEN_BYTES,
    Checkpoint,
    CopyGrant,
    Grant,
    LedgerSummary,
    Opening,
    StalePage,
    check_checkpoint,
    check_limit,
)
from zddm_flags.rollout import checked_rate

__all__ = ["REAP_AT_ONCE", "Call", "Rows", "Script", "check_server", "is_durable", "is_refusal"]

SCHEMA = b"1"
REAP_AT_ONCE = 1000
"""Tokens that one script reaps at most: no other client of the server is answered meanwhile."""
SCAN_AT_ONCE = 1000
"""About how many entries one script looks at for those that are stale."""

PRELUDE = """
local META, ENTRIES, PENDING, TOKENS, CHECKPOINTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local SCHEMA, IDENTITY, EXPECTED, PROPOSED, FLOOR = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local PATIENCE = ARGV[6]
local OWN = 7      -- where the arguments of the call itself begin
local CHUNK = 1000 -- Lua's stack takes about 8000 values

local state, refusal

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Numbers as the ledger writes them. Lua takes other texts for numbers too: 'nan', '-1', '0x1p-1', ' 1'.

local function whole_number(text) return string.match(text, '^%d+$') and #text <= 15 and tonumber(text) end

local function double(text)
  local number = string.match(text, '^%d[%d.e+-]*$') and tonumber(text)
  return number and number < math.huge and number
end

-- Look at the rows as a whole, and make them where this object never saw any and there are none.
local function examine()
  local meta = redis.pcall('HMGET', META, 'schema', 'identity', 'incarnation', 'opened', 'epoch', 'stale',
    'entries', 'pending', 'tokens', 'reaped', 'token_seconds')
  local sizes = {meta, redis.pcall('HLEN', ENTRIES), redis.pcall('ZCARD', PENDING), redis.pcall('HLEN', TOKENS)}
  for position, answer in ipairs(sizes) do
    if type(answer) == 'table' and answer.err then
      if string.find(answer.err, '^WRONGTYPE') then return nil, {'foreign', position} end
      return nil, answer
    end
  end
  if not meta[1] then
    if redis.call('EXISTS', META) == 1 then return nil, {'foreign', 1} end
    if EXPECTED ~= '' or sizes[2] + sizes[3] + sizes[4] > 0 then return nil, {'lost'} end
    redis.call('HSET', META, 'schema', SCHEMA, 'identity', IDENTITY, 'incarnation', PROPOSED, 'opened', FLOOR,
      'epoch', '0', 'stale', '0', 'entries', '0', 'pending', '0', 'tokens', '0', 'reaped', '0',
      'token_seconds', PATIENCE)
    return {incarnation = PROPOSED, opened = FLOOR, epoch = 0, stale = 0, tokens = 0, reaped = 0,
      token_seconds = tonumber(PATIENCE)}
  end
  if meta[1] ~= SCHEMA then return nil, {'schema', meta[1]} end
  for position = 2, 11 do
    if not meta[position] then return nil, {'foreign', 1} end
  end
  local numbers = {[4] = double(meta[4]), [11] = double(meta[11])}
  for position = 5, 10 do numbers[position] = whole_number(meta[position]) end
  for position = 4, 11 do
    if not numbers[position] then return nil, {'foreign', 1} end
  end
  if meta[2] ~= IDENTITY then return nil, {'identity', meta[2]} end
  if EXPECTED ~= '' and meta[3] ~= EXPECTED then return nil, {'lost'} end
  if numbers[4] > 1 or not string.match(meta[3], '^%x+$') or #meta[3] ~= 24 then return nil, {'foreign', 1} end
  if numbers[7] ~= sizes[2] or numbers[8] ~= sizes[3] or numbers[9] ~= sizes[4] then return nil, {'lost'} end
  if numbers[6] > sizes[2] then return nil, {'foreign', 1} end
  local opened = meta[4]
  if EXPECTED == '' and tonumber(FLOOR) > numbers[4] then
    redis.call('HSET', META, 'opened', FLOOR)
    opened = FLOOR
  end
  local token_seconds = numbers[11]
  if EXPECTED == '' and tonumber(PATIENCE) > token_seconds then
    redis.call('HSET', META, 'token_seconds', PATIENCE)
    token_seconds = tonumber(PATIENCE)
  end
  return {incarnation = meta[3], opened = opened, epoch = numbers[5], stale = numbers[6], tokens = numbers[9],
    reaped = numbers[10], token_seconds = token_seconds}
end

-- The names of keys among the arguments, from the one at `first` on.
local function names_from(first)
  local names = {}
  for position = first, #ARGV do names[#names + 1] = ARGV[position] end
  return names
end

local function text_of(entry)
  return (entry.stale and 's' or '-') .. (entry.contended and 'c' or '-') .. table.concat(entry.tokens, ',')
end

-- Whether an entry keeps the rules: a clean key has none, and contended is who has several tokens.
local function is_possible(entry)
  if #entry.tokens == 0 then return entry.stale and not entry.contended end
  return #entry.tokens == 1 or entry.contended
end

-- The entry that a text means; nil where this ledger wrote none such.
local function entry_of(text)
  local stale, contended, tokens = string.match(text, '^([s-])([c-])([%w,-]*)$')
  if not stale then return nil end
  local entry = {stale = stale == 's', contended = contended == 'c', tokens = {}}
  for token in string.gmatch(tokens, '[^,]+') do entry.tokens[#entry.tokens + 1] = token end
  return text_of(entry) == text and is_possible(entry) and entry or nil
end

-- The entries of keys, by name; a clean key has one without tokens.
local function load_entries(names)
  local entries = {}
  for first = 1, #names, CHUNK do
    local texts = redis.call('HMGET', ENTRIES, unpack(names, first, math.min(first + CHUNK - 1, #names)))
    for offset, text in ipairs(texts) do
      local entry = {stale = false, contended = false, tokens = {}}
      if text then
        entry = entry_of(text)
        if not entry then return nil, {'foreign', 2} end
      end
      entries[names[first + offset - 1]] = entry
    end
  end
  return entries
end

local function save(name, entry)
  if #entry.tokens == 0 and not entry.stale then
    redis.call('HDEL', ENTRIES, name)
  else
    redis.call('HSET', ENTRIES, name, text_of(entry))
  end
end

-- Whether a number in `tokens`, which is going to be lowered, is none.
local function miscounted(tokens)
  for first = 1, #tokens, CHUNK do
    local counts = redis.call('HMGET', TOKENS, unpack(tokens, first, math.min(first + CHUNK - 1, #tokens)))
    for _, count in ipairs(counts) do
      if count and not whole_number(count) then return true end
    end
  end
end

-- The order of the lines below matters where an error stops the script between them: a token that is pending can
-- always be reaped, and *stale* is set before the token that protected the key is gone.

-- Make the token pending on each key.
local function add(token, names, entries)
  local time = string.format('%.0f', now())
  local added = 0
  for _, name in ipairs(names) do
    if redis.call('ZADD', PENDING, 'NX', time, token .. ':' .. name) == 1 then
      local entry = entries[name]
      entry.tokens[#entry.tokens + 1] = token
      save(name, entry)
      added = added + 1
    end
  end
  if added > 0 then redis.call('HINCRBY', TOKENS, token, added) end
end

local removed = {}

-- Where in the entry the token is; nil where it is not pending.
local function place_of(entry, token)
  for position, pending in ipairs(entry.tokens) do
    if pending == token then return position end
  end
end

local function remove(entry, name, place, stale)
  if stale ~= entry.stale then state.stale = state.stale + (stale and 1 or -1) end
  entry.stale = stale
  local token = table.remove(entry.tokens, place)
  if #entry.tokens == 0 then entry.contended = false end
  save(name, entry)
  redis.call('ZREM', PENDING, token .. ':' .. name)
  removed[token] = (removed[token] or 0) + 1
end

-- The reply: what every call tells of the rows, and what this one found. Indexes are those of Lua, from 1.
local function finish(changed, ...)
  for token, count in pairs(removed) do
    if redis.call('HINCRBY', TOKENS, token, -count) <= 0 then redis.call('HDEL', TOKENS, token) end
  end
  if changed then
    state.tokens = redis.call('HLEN', TOKENS)
    redis.call('HSET', META, 'stale', state.stale, 'entries', redis.call('HLEN', ENTRIES),
      'pending', redis.call('ZCARD', PENDING), 'tokens', state.tokens)
  end
  local age = -1
  local oldest = redis.call('ZRANGE', PENDING, 0, 0, 'WITHSCORES')
  if oldest[2] then age = math.min(math.max(0, now() - tonumber(oldest[2])), 2 ^ 53) end
  return {'ok', state.incarnation, state.opened, state.epoch, state.stale, state.tokens, age, state.reaped, ...}
end

-- What a field of the checkpoints holds: version, time and data; nil where this ledger wrote none such.
local function checkpoint_of(text)
  local version, saved, data = string.match(text, '^(%d+) (%d+) (.*)$')
  version, saved = version and whole_number(version), saved and #saved <= 16 and tonumber(saved)
  if version and version > 0 and saved then return version, saved, data end
end

-- Whether Redis holds checkpoints, or none, where they are to be.
local function checkpoints_are_foreign()
  local kind = redis.call('TYPE', CHECKPOINTS).ok
  return kind ~= 'hash' and kind ~= 'none'
end

state, refusal = examine()
if refusal then return refusal end
"""


class Script(NamedTuple):
    """A script, and what Redis calls it once it knows it."""

    text: bytes
    digest: bytes
    once: bool
    """Whether a second run would do more than the first."""
    keys: int
    """How many of the Redis keys it is told."""


def _script(body: str, *, grows: bool = False, once: bool = False, keys: int = 4) -> Script:
    # A server whose memory is full refuses what needs more. What makes the ledger smaller, or no larger, goes on.
    first_line = "#!lua" if grows else "#!lua flags=allow-oom"
    text = f"{first_line}\n{PRELUDE}{body}".encode()
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode(), once, keys)


BEGIN = _script(
    """
local names = names_from(OWN + 1)
local entries, refusal = load_entries(names)
if refusal then return refusal end
local contended = {}
for position, name in ipairs(names) do
  if #entries[name].tokens > 0 then
    entries[name].contended = true
    contended[#contended + 1] = position
  end
end
add(ARGV[OWN], names, entries)
return finish(true, contended)
""",
    grows=True,
    once=True,
)

BEGIN_COPY = _script(
    """
local names = names_from(OWN + 1)
local entries, refusal = load_entries(names)
if refusal then return refusal end
local granted, stale, free = {}, {}, {}
for position, name in ipairs(names) do
  if #entries[name].tokens == 0 then
    granted[#granted + 1] = position
    free[#free + 1] = name
    if entries[name].stale then stale[#stale + 1] = position end
  end
end
add(ARGV[OWN], free, entries)
return finish(true, granted, stale)
""",
    grows=True,
    once=True,
)

END = _script("""
local token, outcomes = ARGV[OWN], ARGV[OWN + 1]
local names = names_from(OWN + 2)
local entries, refusal = load_entries(names)
if refusal then return refusal end
if miscounted({token}) then return {'foreign', 4} end
for position, name in ipairs(names) do
  local entry = entries[name]
  local place = place_of(entry, token)
  if place then
    remove(entry, name, place, entry.contended or string.sub(outcomes, position, position) ~= '1')
  end
end
return finish(true)
""")

WITHDRAW = _script("""
local names = names_from(OWN + 1)
local entries, refusal = load_entries(names)
if refusal then return refusal end
if miscounted({ARGV[OWN]}) then return {'foreign', 4} end
for _, name in ipairs(names) do
  local entry = entries[name]
  local place = place_of(entry, ARGV[OWN])
  if place then remove(entry, name, place, entry.stale) end
end
return finish(true)
""")

DIRTY = _script("""
local names = names_from(OWN)
local dirty = {}
for first = 1, #names, CHUNK do
  local texts = redis.call('HMGET', ENTRIES, unpack(names, first, math.min(first + CHUNK - 1, #names)))
  for offset, text in ipairs(texts) do
    if text then dirty[#dirty + 1] = first + offset - 1 end
  end
end
return finish(false, dirty)
""")

ALONE = _script("""
local names = names_from(OWN + 1)
local entries, refusal = load_entries(names)
if refusal then return refusal end
local alone = {}
for position, name in ipairs(names) do
  local entry = entries[name]
  if place_of(entry, ARGV[OWN]) and not entry.contended then alone[#alone + 1] = position end
end
return finish(false, alone)
""")

OPEN_TO = _script("""
if tonumber(ARGV[OWN]) > tonumber(state.opened) then
  redis.call('HSET', META, 'opened', ARGV[OWN])
  state.opened = ARGV[OWN]
end
return finish(false)
""")

REAP = _script("""
local age = math.max(tonumber(ARGV[OWN]), state.token_seconds)
local before = string.format('(%.17g', now() - age * 1000000)
local members = redis.call('ZRANGEBYSCORE', PENDING, 0, before, 'LIMIT', 0, ARGV[OWN + 1])
local tokens, names = {}, {}
for position, member in ipairs(members) do
  local colon = string.find(member, ':', 1, true)
  if not colon then return {'foreign', 3} end
  tokens[position], names[position] = string.sub(member, 1, colon - 1), string.sub(member, colon + 1)
end
local entries, refusal = load_entries(names)
if refusal then return refusal end
for position, name in ipairs(names) do
  if not place_of(entries[name], tokens[position]) then return {'lost'} end
end
if miscounted(tokens) then return {'foreign', 4} end
for position, name in ipairs(names) do
  local entry = entries[name]
  remove(entry, name, place_of(entry, tokens[position]), true)
end
if #members > 0 then state.reaped = redis.call('HINCRBY', META, 'reaped', #members) end
return finish(true, #members)
""")

SUMMARY = _script("return finish(false)")

STALE_KEYS = _script("""
local page = redis.call('HSCAN', ENTRIES, ARGV[OWN], 'COUNT', ARGV[OWN + 1])
local names = {}
for position = 1, #page[2], 2 do
  local entry = entry_of(page[2][position + 1])
  if not entry then return {'foreign', 2} end
  if entry.stale then names[#names + 1] = page[2][position] end
end
return finish(false, page[1], names)
""")

CHECKPOINTS = _script(
    """
if checkpoints_are_foreign() then return {'foreign', 5} end
local fields = redis.call('HGETALL', CHECKPOINTS)
local found, time = {}, now()
for position = 1, #fields, 2 do
  local version, saved, data = checkpoint_of(fields[position + 1])
  if not version then return {'foreign', 5} end
  found[#found + 1] = {fields[position], data, version, math.max(0, time - saved)}
end
return finish(false, found)
""",
    keys=5,
)

SAVE_CHECKPOINT = _script(
    """
if checkpoints_are_foreign() then return {'foreign', 5} end
local name, data, version = ARGV[OWN], ARGV[OWN + 1], tonumber(ARGV[OWN + 2])
local text = redis.call('HGET', CHECKPOINTS, name)
local known, kept = 0, nil
if text then
  local saved
  known, saved, kept = checkpoint_of(text)
  if not known then return {'foreign', 5} end
end
if known == version then
  redis.call('HSET', CHECKPOINTS, name, string.format('%.0f %.0f ', version + 1, now()) .. data)
  return finish(false, 1)
end
return finish(false, known == version + 1 and kept == data and 1 or 0)
""",
    grows=True,
    keys=5,
)

RESET = _script(
    """
if checkpoints_are_foreign() then return {'foreign', 5} end
if redis.call('EXISTS', PENDING, TOKENS) > 0 then return finish(false, 0) end
redis.call('UNLINK', CHECKPOINTS, ENTRIES)
state.opened, state.epoch, state.stale, state.reaped = '0.0', state.epoch + 1, 0, 0
redis.call('HSET', META, 'opened', state.opened, 'epoch', state.epoch, 'reaped', state.reaped)
return finish(true, 1)
""",
    once=True,
    keys=5,
)


class Call(NamedTuple):
    """A script and its arguments, ready to be sent."""

    script: Script
    arguments: tuple[bytes, ...]
    once: bool
    """Whether it must not be sent a second time, be it after an error."""


class Rows:
    """What one object knows of a migration's rows: how to ask for them, and what it saw. No I/O. Thread-safe.

    Args:
        prefix: what the names of the Redis keys begin with: ASCII letters, digits and any of `._-`.
        name: the migration's.
        identity: the gate's.
        opened: the least that `opened` is raised to at first use.
        token_seconds: the least for which tokens are kept, from first use on.

    Raises:
        ValueError: the prefix has other characters, or is empty.
    """

    def __init__(self, prefix: str, name: str, identity: str, opened: float, token_seconds: float) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", prefix):
            raise ValueError("prefix must be of ASCII letters, digits, dots, hyphens and underscores")
        self._name = name
        self._identity = identity
        parts = ("meta", "entries", "pending", "tokens", "checkpoints")
        self.keys = tuple(f"{{{prefix}:{name}}}:{part}" for part in parts)
        self._opened = opened
        self._token_seconds = token_seconds
        self._seen: dict[str, bytes] = {}
        self._summary = LedgerSummary(0, 0, None, opened, 0)

    def call(self, script: Script, *arguments: bytes) -> Call:
        """What to send."""
        expected = self._seen.get("incarnation", b"")
        proposed = b"" if expected else os.urandom(12).hex().encode()
        keys = (key.encode() for key in self.keys[: script.keys])
        floors = (_text(self._opened), _text(self._token_seconds))
        common = (SCHEMA, self._identity.encode(), expected, proposed, *floors)
        # A call that may make the rows could, sent twice, make them anew after a loss that nobody saw.
        return Call(script, (b"%d" % script.keys, *keys, *common, *arguments), once=script.once or not expected)

    def accept(self, reply: Sequence[Any]) -> tuple[Opening, Sequence[Any]]:
        """What a reply says of the migration, and the part of it that is the call's own.

        Raises:
            LedgerMismatch: the rows are not this migration's, or were lost.
        """
        status, *rest = reply
        if status != b"ok":
            raise self._mismatch(status, rest)
        incarnation, opened, epoch, stale, tokens, age, reaped, *own = rest
        # Two threads may each have seen the rows first, and others between them: `setdefault` lets one win.
        if self._seen.setdefault("incarnation", incarnation) != incarnation:
            raise self._mismatch(b"lost", [])
        opening = Opening(float(opened), epoch)
        self._summary = LedgerSummary(stale, tokens, None if age < 0 else age / 1e6, *opening, reaped)
        return opening, own

    def last_summary(self) -> LedgerSummary:
        """What the last reply said."""
        return self._summary

    def begin(self, keys: Sequence[bytes], token: bytes) -> Call:
        """See `MigrationLedger.begin`."""
        return self.call(BEGIN, _checked_token(token), *_checked_keys(keys))

    def begun(self, keys: Sequence[bytes], reply: Sequence[Any]) -> Grant:
        """What the reply to `begin` says."""
        opening, (contended,) = self.accept(reply)
        return Grant(frozenset(_chosen(keys, contended)), *opening)

    def begin_copy(self, keys: Sequence[bytes], token: bytes) -> Call:
        """See `MigrationLedger.begin_copy`."""
        return self.call(BEGIN_COPY, _checked_token(token), *_checked_keys(keys))

    def begun_copy(self, keys: Sequence[bytes], reply: Sequence[Any]) -> CopyGrant:
        """What the reply to `begin_copy` says."""
        opening, (granted, stale) = self.accept(reply)
        return CopyGrant(frozenset(_chosen(keys, granted)), frozenset(_chosen(keys, stale)), *opening)

    def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> Call:
        """See `MigrationLedger.end`."""
        flags = b"".join(b"1" if ok else b"0" for ok in outcomes.values())
        return self.call(END, _checked_token(token), flags, *_checked_keys(outcomes))

    def withdraw(self, keys: Collection[bytes], token: bytes) -> Call:
        """See `MigrationLedger.withdraw`."""
        return self.call(WITHDRAW, _checked_token(token), *_checked_keys(keys))

    def dirty(self, keys: Sequence[bytes]) -> Call:
        """See `MigrationLedger.dirty`."""
        return self.call(DIRTY, *_checked_keys(keys))

    def alone(self, keys: Sequence[bytes], token: bytes) -> Call:
        """See `MigrationLedger.alone`."""
        return self.call(ALONE, _checked_token(token), *_checked_keys(keys))

    def found(self, keys: Sequence[bytes], reply: Sequence[Any]) -> Collection[bytes]:
        """What the reply to `dirty` or `alone` says."""
        _, (found,) = self.accept(reply)
        return _chosen(keys, found)

    def open_to(self, rate: float) -> Call:
        """See `MigrationLedger.open_to`."""
        return self.call(OPEN_TO, _text(checked_rate(rate)))

    def reap(self, age_seconds: float, limit: int) -> Call:
        """See `MigrationLedger.reap`."""
        return self.call(REAP, _text(age_seconds), b"%d" % limit)

    def reaped(self, reply: Sequence[Any]) -> int:
        """What the reply to `reap` says."""
        _, (count,) = self.accept(reply)
        return int(count)

    def summary(self) -> Call:
        """See `MigrationLedger.summary`."""
        return self.call(SUMMARY)

    def stale_keys(self, cursor: str | None, limit: int) -> Call:
        """See `MigrationLedger.stale_keys`."""
        check_limit(limit)
        if cursor is not None and (re.fullmatch("[0-9]{1,20}", cursor) is None or int(cursor) >= 2**64):
            raise ValueError("this is no cursor of a page of stale keys: it is not a number of Redis")
        return self.call(STALE_KEYS, (cursor or "0").encode(), b"%d" % min(limit, SCAN_AT_ONCE))

    def stale_page(self, reply: Sequence[Any]) -> StalePage:
        """What the reply to `stale_keys` says."""
        _, (cursor, keys) = self.accept(reply)
        return StalePage(keys, None if cursor == b"0" else cursor.decode())

    def checkpoints(self) -> Call:
        """See `MigrationLedger.checkpoints`."""
        return self.call(CHECKPOINTS)

    def found_checkpoints(self, reply: Sequence[Any]) -> Mapping[str, Checkpoint]:
        """What the reply to `checkpoints` says."""
        _, (found,) = self.accept(reply)
        try:
            return {
                name.decode(): Checkpoint(data.decode(), version, age / 1e6) for name, data, version, age in found
            }
        except UnicodeDecodeError:
            raise self._mismatch(b"foreign", [5]) from None  # the error's text would show what it is about

    def save_checkpoint(self, name: str, data: str, version: int) -> Call:
        """See `MigrationLedger.save_checkpoint`."""
        check_checkpoint(name, data)
        return self.call(SAVE_CHECKPOINT, name.encode(), data.encode(), b"%d" % version)

    def reset(self) -> Call:
        """See `MigrationLedger.reset`."""
        return self.call(RESET)

    def was_done(self, reply: Sequence[Any]) -> bool:
        """What the reply to `save_checkpoint` or `reset` says."""
        _, (done,) = self.accept(reply)
        return bool(done)

    def _mismatch(self, status: bytes, rest: Sequence[Any]) -> LedgerMismatch:
        about = f"the ledger of migration {self._name!r} on Redis"
        if status == b"identity":
            return LedgerMismatch(
                f"migration {self._name!r} was begun with hasher {_shown(rest[0])}, this gate has "
                f"{self._identity!r}: use the same hasher and encoding in every gate of a migration, or give this "
                "one its own name"
            )
        if status == b"schema":
            return LedgerMismatch(
                f"{about} has schema version {_shown(rest[0])}, and this release of zddm-flags knows {SCHEMA!r}: "
                "run one release that knows it in every process"
            )
        if status == b"foreign":
            return LedgerMismatch(
                f"{about} cannot be understood: the Redis key {self.keys[rest[0] - 1]!r} holds something else. "
                "If another program uses it, give this ledger another prefix=. " + _ANEW
            )
        return LedgerMismatch(f"{about} was lost, wholly or in part, or made anew. " + _ANEW)


_ANEW = (
    "What New holds cannot be trusted any more: set the rollout to 0, empty New (or verify it, and give the "
    "ledger opened=1.0), delete the Redis keys of this migration's ledger, and start the processes anew"
)


def check_server(info: Mapping[str, Any]) -> None:
    """Refuse a server that cannot hold a ledger, by what its INFO says.

    Raises:
        Unsupported: it may evict keys without a time to live, or is older than Redis 7.
    """
    policy = str(info.get("maxmemory_policy", ""))
    if policy.startswith("allkeys"):
        raise Unsupported(
            f"the ledger's server evicts keys (maxmemory-policy {policy}), and a lost mark is a stale read: set "
            "maxmemory-policy to noeviction, or use a server of its own. The volatile-* policies do as well, for "
            "no key of the ledger has a time to live"
        )
    version = str(info.get("redis_version", ""))
    if version.partition(".")[0].isdecimal() and int(version.partition(".")[0]) < 7:  # Valkey says 7.2.4
        raise Unsupported(f"the ledger needs Redis 7 or later, or Valkey; this server is Redis {version}")


def is_durable(info: Mapping[str, Any]) -> bool:
    """Whether the server keeps an append-only file, as far as its INFO says."""
    return str(info.get("aof_enabled", "1")) != "0"


# With these the server refuses a command before it does anything, scripts included: a script that has changed
# something is not stopped for any of them.
_REFUSALS = (
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterError,  # CLUSTERDOWN, and redirections without end
    MaxConnectionsError,
    OutOfMemoryError,
    ReadOnlyError,
)
_REFUSAL_CODES = ("BUSY ", "MISCONF ", "NOREPLICAS ")  # the driver has no classes for these


def is_refusal(error: Exception) -> bool:
    """Whether `error` is the server's word, or the driver's, that a command was not begun."""
    if isinstance(error, _REFUSALS):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(_REFUSAL_CODES)


def _text(number: float) -> bytes:
    """The shortest text that is read back as exactly this double; Lua's own would lose digits."""
    return repr(float(number)).encode()


def _checked_token(token: bytes) -> bytes:
    if len(token) > MAX_TOKEN_BYTES or not re.fullmatch(rb"[A-Za-z0-9-]+", token):
        raise ValueError(f"a token is of 1 to {MAX_TOKEN_BYTES} ASCII letters, digits and hyphens")
    return token


def _checked_keys(keys: Iterable[bytes]) -> Iterable[bytes]:
    for key in keys:
        if len(key) > MAX_KEY_BYTES:
            raise InvalidKey(
                f"a key has {len(key)} bytes in its encoding, and the ledger takes at most {MAX_KEY_BYTES}"
            )
        yield key


def _chosen(keys: Sequence[bytes], indexes: Iterable[int]) -> list[bytes]:
    return [keys[index - 1] for index in indexes]


def _shown(value: bytes) -> str:
    return repr(value.decode("utf-8", "backslashreplace"))
