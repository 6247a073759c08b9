#!lua name=fraudstream_@DIGEST@
--[[
Profile series: time-ordered records of what happened to a card or a terminal, as packed strings.
@DIGEST@ is the hash of this file: two versions of the library live side by side and are never
replaced, so workers of two releases cannot change each other's functions.

KEYS (all of one bucket, so all in one slot of a cluster; numbers little-endian unless said)
  fs:<namespace>:<definitions>:{<bucket>}:watermarks     hash
      "e"  epoch: 8 random bytes, chosen when the bucket is first written
      "f"  floor: epoch ms; nothing earlier is known (set after a loss that could not be undone)
      "<topic number>:<partition>"  watermark: every record below this offset has been applied
  fs:<namespace>:<definitions>:{<bucket>}:rebuilding     hash
      "<topic number>:<partition>"  offset at which the rebuild of this partition is done
  fs:<namespace>:<definitions>:{<bucket>}:<series>:<entity>     string, the head of a series:
      header  u8 layout (2) · u8 columns · u8 attributes, + 128 with versions · u8 hints
              u32 chunks · u32 number of the next new chunk
              i64 trimmed_to_ms: records at or before it are gone
              i64 base count: how many those were · i64 base sum, a column
              i64 offset of the head's own records, a column
              u32 hint, a window edge: the place where it was found last
      index   for each chunk, oldest first: i64 event_time_ms of its first record
              i64 place of its first record · u32 number · u32 records · i64 offset, a column
      records the newest ones, each:
              i64 event_time_ms · 8 B hash of the transaction id
              8 B source position of the first writer (big-endian: u8 topic, u16 partition,
              u40 offset + 1; all zero: not through Kafka) · [i64 version, label series only]
              8 B hash, an attribute
              i64 cumulative sum up to and including this record, a column
  …:<series>:<entity>#<number>                           string, a chunk: older records, as above

  Records are in order of event time; equal times keep arrival order. The place of a record is the
  number of records that ever came before it, so the count of a window is a difference of places.

      head   [ header | index ──┬── … ──┬── | newest records ]     at most HEAD_MAX, or so
                                ▼       ▼
      chunks               [ oldest ] [ … ]                        at most CHUNK_MAX each

  A record's sum is what it holds plus the offset of its chunk, modulo 2^53: differences are exact
  as long as they are below 2^53, however much went through a series in its life. An insertion into
  the past rewrites one chunk, and of the others only the offsets. A hint is where the search for a
  window's edge begins; it is never believed.
  Time to live only collects garbage. That of a chunk is renewed with its head's and a day longer.

FCALL fs_apply_@DIGEST@ <number of keys> <watermarks> <rebuilding> <series key of each entry …>
  ARGV[1]  u8 flags (1: set missing watermarks to their stretch's start; 2: record only, read
           nothing; 4: keep the floor given here) · 8 B expected epoch (zero: any)
           8 B epoch if there is none · i64 floor_ms (0: none) · i64 oldest_ms: nothing is trimmed
           that an event of this time looks back on, for the whole batch may come again after a
           crash · u16 stretches, then each
           u8 topic · u16 partition · i64 start · i64 end
  ARGV[2]  series: u8 series, then each: u8 columns · u8 attributes · u8 versioned · i64 horizon_ms
           i64 ttl_ms · u16 edges, then each: i64 ms before the present event
           u16 windows, then each: u16 upper · u16 lower: the edges' numbers from 1; as upper also
           edges + 1: the event's own place, counted; edges + 2: the same, not counted
           u16 scans, then each: u8 kind (0 distinct, 1 quantile, 2 last) · u16 upper · u16 lower
           u8 attribute or column of the amount, from 1 · u8 column of what is known of it
           u16 per mille
  ARGV[3]  entries, each: u8 series (from 0) · u8 recorded · a record as above, but with the values
           (from 0, below 2^53) in the place of the sums
  returns  { applied 0|1, epoch, watermarks known, partitions being rebuilt,
             rows of series 0, rows of series 1, … }
           a row: i64 outcome · i64 marks · for each window: i64 count (-1: reaches back before
           what is known) · i64 sum, a column · for each scan: i64 answer (-1: reaches back before
           what is known, -2: nothing there)
FCALL fs_merge_@DIGEST@ 1 <series key>
  ARGV[1]  series, as above, but one
  ARGV[2]  records in order of event time, with values in the place of the sums
  returns  how many of them have been dealt with: the rest would have taken too long
FCALL fs_forget_@DIGEST@ 1 <series key>
  ARGV[1]  series, as above, but one
  ARGV[2]  i64 until_ms: records at or before it are dropped, and refused from now on
  returns  how many were dropped

A call is all or nothing: it works on copies, and writes them when all has been read and checked. A
stretch that starts above the stored watermark (something in between was lost) writes nothing.
Errors: LAYOUT, a key holds something else; LOST, a chunk is missing or cut short.
]]

local LAYOUT = 2
local HEAD_MAX = 512           -- records in a head, above it the older half moves into a chunk
local CHUNK_MAX = 2048         -- records in a chunk, above it it is split
local BLOCK = 16               -- records read at once from a chunk when one is looked at
local STEPS = 8                -- records an edge may have moved before it is searched for
local LATE_SCAN_MAX = 512      -- a retry can lie behind at most a batch of later records
local SCAN_MAX = 256           -- a scan looks at no more records
local MERGE_WORK_MAX = 1536    -- records a merge may touch: a call of a few milliseconds
local DAY_MS = 86400000
local NEVER = 1 / 0
local MODULUS = 9007199254740992  -- 2^53

local READ_ONLY, RECORDED, RETRY, DUPLICATE, TOO_LATE, SUPERSEDED = 0, 1, 2, 3, 4, 5
local MARK_LATE, MARK_CONFLICT = 1, 2
local UNKNOWN, NOTHING = -1, -2
local FLAG_INITIAL, FLAG_RECORD_ONLY, FLAG_KEEP_FLOOR = 1, 2, 4
local DISTINCT, QUANTILE = 0, 1
local ZERO8 = '\0\0\0\0\0\0\0\0'
local FIXED_BYTES = 28         -- of a header, before the base sums

-- Bound at each call: when the library is loaded, nothing but registration is there.
local call, unpack_bytes, pack_bytes, sub, byte, floor
local function bind()
  call, unpack_bytes, pack_bytes = redis.call, struct.unpack, struct.pack
  sub, byte, floor = string.sub, string.byte, math.floor
end

local function has_flag(flags, flag)
  return floor(flags / flag) % 2 == 1
end

-- Sums modulo 2^53, without ever leaving the whole numbers that a double holds.
local function plus(a, b)
  if a >= MODULUS - b then
    return a - (MODULUS - b)
  end
  return a + b
end

local function minus(a, b)
  if a >= b then
    return a - b
  end
  return a + (MODULUS - b)
end

-- ---------------------------------------------------------------- arguments

local function parse_header(arg)
  local h = { stretches = {} }
  local count, pos
  h.flags, h.epoch, h.candidate, h.floor, h.oldest, count, pos =
      unpack_bytes('<Bc8c8i8i8H', arg)
  for i = 1, count do
    local topic, partition, first, last
    topic, partition, first, last, pos = unpack_bytes('<BHi8i8', arg, pos)
    h.stretches[i] = { field = topic .. ':' .. partition, first = first, last = last }
  end
  return h
end

local function parse_edges(def, arg, pos)
  local count
  count, pos = unpack_bytes('<H', arg, pos)
  for i = 1, count do
    def.edges[i], pos = unpack_bytes('<i8', arg, pos)
  end
  count, pos = unpack_bytes('<H', arg, pos)
  for i = 1, count do
    def.uppers[i], def.lowers[i], pos = unpack_bytes('<HH', arg, pos)
  end
  count, pos = unpack_bytes('<H', arg, pos)
  for i = 1, count do
    local scan = {}
    scan.kind, scan.upper, scan.lower, scan.field, scan.known, scan.per_mille, pos =
        unpack_bytes('<BHHBBH', arg, pos)
    def.scans[i] = scan
  end
  return pos
end

local function derive_layout(def)
  local columns, edges = def.columns, #def.edges
  def.attributes_at = def.versioned and 32 or 24
  def.sums_at = def.attributes_at + 8 * def.attributes
  def.record_bytes = def.sums_at + 8 * columns
  def.index_bytes = 24 + 8 * columns
  def.kind = def.attributes + (def.versioned and 128 or 0)
  def.edge_slots = math.max(8, columns)
  def.own, def.before_own = edges + 1, edges + 2
  def.value_format = '<' .. string.rep('i8', columns)
  def.hint_format = '<' .. string.rep('I4', edges)
  def.no_hints = string.rep('\0', 4 * edges)
  def.row_numbers = 2 + #def.uppers * (1 + columns) + #def.scans
  def.row_format = '<' .. string.rep('i8', def.row_numbers)
  def.zeros = string.rep(ZERO8, columns)
  def.no_sums = def.zeros .. def.zeros
end

-- The same bytes come with every call of a deployment: the last ones are kept as they were parsed.
local parsed_arg, parsed_defs
local function parse_series(arg)
  if arg == parsed_arg then
    return parsed_defs
  end
  local defs = {}
  local count, pos = unpack_bytes('<B', arg)
  for i = 1, count do
    local def = { edges = {}, uppers = {}, lowers = {}, scans = {} }
    local versioned
    def.columns, def.attributes, versioned, def.horizon, def.ttl, pos =
        unpack_bytes('<BBBi8i8', arg, pos)
    def.versioned = versioned == 1
    pos = parse_edges(def, arg, pos)
    derive_layout(def)
    defs[i] = def
  end
  parsed_arg, parsed_defs = arg, defs
  return defs
end

-- ---------------------------------------------------------------- parts of a series
-- A part is a chunk, or the head, which is the series `s` itself: n records, the first of them at
-- place `start`; `data` holds bytes of them from byte `from` on (the head's: all, from below 0).

local function numbers(def, bytes, pos)
  local list = { unpack_bytes(def.value_format, bytes, pos) }
  list[def.columns + 1] = nil  -- where the next field begins
  return list
end

-- Sums that are all zero, as most are, are nil.
local function sums_of(def, bytes, pos)
  if def.columns == 0 or sub(bytes, pos, pos + 8 * def.columns - 1) == def.zeros then
    return nil
  end
  return numbers(def, bytes, pos)
end

local function pack_sums(def, sums)
  return sums and pack_bytes(def.value_format, unpack(sums, 1, def.columns)) or def.zeros
end

local function new_series(def, key)
  local s = { key = key, def = def, exists = false, n = 0, start = 0, data = '', from = 0,
              chunks = 0, next = 1, index = '', trimmed_to = 0, base_count = 0, newest = 0,
              sums = def.no_sums }
  for e = 1, #def.edges do
    s[e] = 0
  end
  return s
end

-- Read the head of a series; nil if it is none.
local function load_series(def, key)
  local data = call('GET', key)
  if not data then
    return new_series(def, key)
  end
  local bytes = #data
  if bytes < FIXED_BYTES then
    return nil
  end
  local layout, columns, kind, hints, chunks, next_number, trimmed_to, base_count =
      unpack_bytes('<BBBBI4I4i8i8', data)
  if layout ~= LAYOUT or columns ~= def.columns or kind ~= def.kind then
    return nil
  end
  local index_at = FIXED_BYTES + 16 * columns + 4 * hints
  local records_at = index_at + chunks * def.index_bytes
  local n = (bytes - records_at) / def.record_bytes
  if n < 0 or n ~= floor(n) then
    return nil
  end
  local hints_at = FIXED_BYTES + 16 * columns + 1
  local sums = columns > 0 and sub(data, FIXED_BYTES + 1, hints_at - 1) or ''
  local has_sums = sums ~= def.no_sums
  local hinted, from = data, hints_at
  if hints ~= #def.edges then
    hinted, from = def.no_hints, 1
  end
  local s = { key = key, def = def, exists = true, n = n, start = base_count, data = data,
              from = -records_at, chunks = chunks, next = next_number, index = '',
              trimmed_to = trimmed_to, base_count = base_count, newest = 0,
              sums = sums, base = has_sums and sums_of(def, sums, 1) or nil,
              offset = has_sums and sums_of(def, sums, 1 + 8 * columns) or nil,
              unpack_bytes(def.hint_format, hinted, from) }
  if n > 0 then
    s.newest = unpack_bytes('<i8', data, bytes - def.record_bytes + 1)
  end
  if chunks > 0 then
    s.index = sub(data, index_at + 1, records_at)
    local _, start, _, records =
        unpack_bytes('<i8i8I4I4', s.index, (chunks - 1) * def.index_bytes + 1)
    s.start = start + records
  end
  return s
end

local function lost(part)
  error(redis.error_reply('LOST ' .. part.key .. ' is missing or cut short'))
end

-- The k-th chunk of a series.
local function chunk(s, k)
  s.parts = s.parts or {}
  local part = s.parts[k]
  if not part then
    local def = s.def
    local at = (k - 1) * def.index_bytes + 1
    local _, start, number, n = unpack_bytes('<i8i8I4I4', s.index, at)
    part = { def = def, key = s.key .. '#' .. string.format('%.0f', number), k = k,
             number = number, start = start, n = n, from = 0,
             data = s.writes and s.writes[number] or '', offset = sums_of(def, s.index, at + 24) }
    s.parts[k] = part
  end
  return part
end

local function read_block(part, first, last)
  local size = part.def.record_bytes
  local data = call('GETRANGE', part.key, first * size, last * size - 1)
  if #data ~= (last - first) * size then
    lost(part)
  end
  part.data, part.from = data, first * size
end

-- Put what was appended to the head to the rest: done late, for copies of the head are dear.
local function join(s)
  if s.tail then
    s.data, s.tail = s.data .. s.tail, nil
  end
end

local function load_whole(part)
  join(part)
  if part.from <= 0 and #part.data + part.from >= part.n * part.def.record_bytes then
    return
  end
  if #part.data < part.n * part.def.record_bytes then
    part.data, part.from = call('GET', part.key) or '', 0
    if #part.data ~= part.n * part.def.record_bytes then
      lost(part)
    end
  end
end

-- Where in part.data its i-th record (from 0) begins, counted from 1.
local function locate(part, i)
  local size = part.def.record_bytes
  local at = i * size - part.from
  if at >= 0 and at < #part.data then
    return at + 1
  end
  if part.tail then
    join(part)
  else
    local first = i - i % BLOCK
    read_block(part, first, math.min(first + BLOCK, part.n))
    at = i * size - part.from
  end
  return at + 1
end

-- More than this calls nothing in the usual case: it is what searches do.
local function time_in(part, i)
  local data, at = part.data, i * part.def.record_bytes - part.from
  if at < 0 or at >= #data then
    at = locate(part, i) - 1
    data = part.data
  end
  return unpack_bytes('<i8', data, at + 1)
end

local function bytes_in(part, i, first, last)
  local at = locate(part, i)
  return sub(part.data, at + first, at + last - 1)
end

local function previous(s, part)
  if part == s then
    return s.chunks > 0 and chunk(s, s.chunks) or nil
  end
  return part.k > 1 and chunk(s, part.k - 1) or nil
end

-- The part that holds a place, and where in it.
local function part_at(s, place)
  if place >= s.start or s.chunks == 0 then
    return s, place - s.start
  end
  local size = s.def.index_bytes
  local low, high = 1, s.chunks
  while low < high do
    local middle = floor((low + high + 1) / 2)
    if unpack_bytes('<i8', s.index, (middle - 1) * size + 9) <= place then
      low = middle
    else
      high = middle - 1
    end
  end
  local part = chunk(s, low)
  return part, place - part.start
end

-- How many of a part's records are at or before time t; searched from a guess outwards.
local function search(part, t, guess)
  local n, step = part.n, 1
  local low, high = 0, n
  guess = guess < 0 and 0 or guess > n and n or guess
  if guess < n and time_in(part, guess) <= t then
    low = guess + 1
    local probe = guess + 1
    while probe < n and time_in(part, probe) <= t do
      low, step = probe + 1, 2 * step
      probe = probe + step
    end
    high = probe < n and probe or n
  elseif guess > 0 then
    high = guess
    local probe = guess - 1
    while probe >= 0 and time_in(part, probe) > t do
      high, step = probe, 2 * step
      probe = probe - step
    end
    low = probe >= 0 and probe + 1 or 0
  else
    return 0
  end
  while low < high do
    local middle = floor((low + high) / 2)
    if time_in(part, middle) <= t then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- The place after the last record at or before time t; with it the part, and where in it.
local function place_after(s, t, guess)
  local part = s
  if s.chunks > 0 and time_in(s, 0) > t then
    local size = s.def.index_bytes
    local low, high = 0, s.chunks
    while low < high do
      local middle = floor((low + high + 1) / 2)
      if unpack_bytes('<i8', s.index, (middle - 1) * size + 1) <= t then
        low = middle
      else
        high = middle - 1
      end
    end
    part = chunk(s, math.max(low, 1))
  end
  local i = search(part, t, guess - part.start)
  return part.start + i, part, i
end

-- The record of this time and hash, if it is there: looked for before the i-th of a part.
local function find(s, t, hash, part, i)
  repeat
    while i > 0 do
      i = i - 1
      if time_in(part, i) ~= t then
        return nil
      end
      if bytes_in(part, i, 8, 16) == hash then
        return part, i
      end
    end
    part = previous(s, part)
    i = part and part.n
  until not part
  return nil
end

-- The sum of a column over all that lies before the i-th record of a part.
local function sum_before(s, part, i, column)
  if i == 0 then
    part = previous(s, part)
    if not part then
      return s.base and s.base[column] or 0
    end
    i = part.n
  end
  local at = locate(part, i - 1) + part.def.sums_at + 8 * (column - 1)
  local sum = unpack_bytes('<i8', part.data, at)
  return part.offset and plus(sum, part.offset[column]) or sum
end

local function value_in(s, part, i, column)
  return minus(sum_before(s, part, i + 1, column), sum_before(s, part, i, column))
end

-- ---------------------------------------------------------------- changes, in our copies

local function add_offsets(def, offset, deltas)
  local result = {}
  for column = 1, def.columns do
    result[column] = plus(offset and offset[column] or 0, deltas[column])
  end
  return result
end

-- All parts after the k-th chunk lie `count` places further, and so much more lies before them.
local function move_later(s, k, count, deltas)
  local def, size = s.def, s.def.index_bytes
  local pieces = { sub(s.index, 1, k * size) }
  for at = k * size + 1, #s.index, size do
    local start = unpack_bytes('<i8', s.index, at + 8)
    pieces[#pieces + 1] = sub(s.index, at, at + 7) .. pack_bytes('<i8', start + count)
        .. sub(s.index, at + 16, at + 23)
        .. pack_sums(def, add_offsets(def, sums_of(def, s.index, at + 24), deltas))
  end
  s.index = table.concat(pieces)
  s.start = s.start + count
  s.offset, s.sums = add_offsets(def, s.offset, deltas), nil
end

local function index_entry(def, data, start, number, offset)
  return pack_bytes('<i8i8I4I4', unpack_bytes('<i8', data), start, number,
      #data / def.record_bytes) .. pack_sums(def, offset)
end

-- Put records in the place of the k-th chunk's, cut into pieces that are not too long.
local function put_chunk(s, part, data)
  local def, size = s.def, s.def.record_bytes
  local n = #data / size
  local piece = math.ceil(n / math.ceil(n / CHUNK_MAX)) * size
  local entries, number = {}, part.number
  s.writes = s.writes or {}
  for at = 1, #data, piece do
    local bytes = sub(data, at, at + piece - 1)
    s.writes[number] = bytes
    entries[#entries + 1] =
        index_entry(def, bytes, part.start + (at - 1) / size, number, part.offset)
    number = s.next
    s.next = s.next + 1
  end
  s.next = s.next - 1
  local at = (part.k - 1) * def.index_bytes
  s.index = sub(s.index, 1, at) .. table.concat(entries)
      .. sub(s.index, at + def.index_bytes + 1)
  s.chunks = s.chunks + #entries - 1
  s.parts = nil
end

-- Replace a part's bytes by others; `count` records and `deltas` in sums more than before.
local function put_part(s, part, data, count, deltas)
  s.dirty = true
  if part == s then
    s.data, s.n = data, s.n + count
    return
  end
  if deltas then
    move_later(s, part.k, count, deltas)
  end
  put_chunk(s, part, data)
end

-- Bytes of a part's records from the i-th on, with deltas added to their sums.
local function shifted(def, data, at, deltas)
  if def.columns == 0 then
    return sub(data, at)
  end
  local pieces, columns, size = {}, def.columns, def.record_bytes
  for pos = at, #data, size do
    local sums = { unpack_bytes(def.value_format, data, pos + def.sums_at) }
    for column = 1, columns do
      sums[column] = plus(sums[column], deltas[column])
    end
    pieces[#pieces + 1] = sub(data, pos, pos + def.sums_at - 1)
    pieces[#pieces + 1] = pack_bytes(def.value_format, unpack(sums, 1, columns))
  end
  return table.concat(pieces)
end

-- Insert records into a part: the j-th of them (a record without sums, and its values, a column
-- after the other) before the part's record number places[j], in order.
local function insert_many(s, part, places, statics, values)
  local def = s.def
  local columns, size = def.columns, def.record_bytes
  load_whole(part)
  local data, count = part.data, #places
  local done = places[1] * size - part.from  -- bytes that are in `pieces`
  local pieces, deltas, sums = { sub(data, 1, done) }, {}, {}
  for column = 1, columns do
    deltas[column] = 0
  end
  for j = 1, count do
    local at = places[j] * size - part.from
    if at > done then
      pieces[#pieces + 1] = shifted(def, sub(data, done + 1, at), 1, deltas)
      done = at
    end
    if j == 1 or places[j] ~= places[j - 1] then
      for column = 1, columns do
        local sum = sum_before(s, part, places[j], column)
        sum = part.offset and minus(sum, part.offset[column]) or sum
        sums[column] = plus(sum, deltas[column])
      end
    end
    for column = 1, columns do
      local value = values[(j - 1) * columns + column]
      sums[column] = plus(sums[column], value)
      deltas[column] = plus(deltas[column], value)
    end
    pieces[#pieces + 1] = statics[j]
    if columns > 0 then
      pieces[#pieces + 1] = pack_bytes(def.value_format, unpack(sums, 1, columns))
    end
  end
  if done < #data then
    pieces[#pieces + 1] = shifted(def, data, done + 1, deltas)
  end
  put_part(s, part, table.concat(pieces), count, deltas)
end

-- A record at the end of all: nearly every one.
local function append(s, static, values)
  local def = s.def
  local columns = def.columns
  if columns > 0 then
    local sums
    if s.n > 0 then
      join(s)
      sums = { unpack_bytes(def.value_format, s.data, #s.data - 8 * columns + 1) }
    else
      sums = {}
      for column = 1, columns do
        sums[column] = minus(s.base and s.base[column] or 0, s.offset and s.offset[column] or 0)
      end
    end
    for column = 1, columns do
      sums[column] = plus(sums[column], values[column])
    end
    static = static .. pack_bytes(def.value_format, unpack(sums, 1, columns))
  end
  s.tail = s.tail and s.tail .. static or static
  s.n = s.n + 1
  s.dirty = true
end

-- Write bytes into the i-th record of a part.
local function replace(s, part, i, first, bytes)
  load_whole(part)
  local at = i * s.def.record_bytes - part.from + first
  put_part(s, part, sub(part.data, 1, at) .. bytes .. sub(part.data, at + #bytes + 1), 0, nil)
end

-- Forget the records before a place; nothing else changes.
local function drop_before(s, place)
  local def, size = s.def, s.def.record_bytes
  local gone = 0
  s.drops = s.drops or {}
  while gone < s.chunks do
    local part = chunk(s, gone + 1)
    if part.start + part.n > place then
      break
    end
    s.drops[#s.drops + 1] = part.key
    if s.writes then
      s.writes[part.number] = nil
    end
    gone = gone + 1
  end
  local kept = gone < s.chunks and chunk(s, gone + 1) or nil
  s.index = sub(s.index, gone * def.index_bytes + 1)
  s.chunks = s.chunks - gone
  s.parts = nil
  if kept and kept.start < place then
    load_whole(kept)
    kept.k = 1
    local data = sub(kept.data, (place - kept.start) * size + 1)
    kept.start = place
    put_chunk(s, kept, data)
  elseif not kept and place > s.start then
    join(s)
    s.data = sub(s.data, (place - s.start) * size - s.from + 1)
    s.n, s.start, s.from = s.n - (place - s.start), place, 0
  end
  s.dirty = true
end

-- Drop what no window can reach, once a quarter of the series is of that kind.
local function trim(s, oldest)
  local n = s.start + s.n - s.base_count
  if n < 4 then
    return
  end
  local known_from = (s.newest < oldest and s.newest or oldest) - s.def.horizon
  local part, i = s, floor(n / 4)
  if s.chunks > 0 then
    part, i = part_at(s, s.base_count + i)
  end
  if time_in(part, i) > known_from then
    return
  end
  local place, last, at = place_after(s, known_from, s.base_count)
  local base = {}
  for column = 1, s.def.columns do
    base[column] = sum_before(s, last, at, column)
  end
  drop_before(s, place)
  s.base, s.base_count, s.sums = base, place, nil
  s.trimmed_to = math.max(s.trimmed_to, known_from)
end

-- ---------------------------------------------------------------- writing

-- Move the older half of a head that has grown too long into chunks.
local function roll(s)
  local def = s.def
  join(s)
  local records = sub(s.data, 1 - s.from)
  local moved = (s.n - floor(HEAD_MAX / 2)) * def.record_bytes
  local bytes = sub(records, 1, moved)
  s.writes = s.writes or {}
  local last = s.chunks > 0 and chunk(s, s.chunks)
  if not last or last.n + moved / def.record_bytes > CHUNK_MAX then
    last = { k = s.chunks + 1, number = s.next, start = s.start, offset = s.offset }
    s.next = s.next + 1
    s.chunks = s.chunks + 1
    s.index = s.index .. string.rep('\0', def.index_bytes)
    put_chunk(s, last, bytes)
  else
    load_whole(last)
    local deltas = {}
    for column = 1, def.columns do
      deltas[column] = minus(s.offset and s.offset[column] or 0,
          last.offset and last.offset[column] or 0)
    end
    put_chunk(s, last, last.data .. shifted(def, bytes, 1, deltas))
  end
  s.data, s.from = sub(records, moved + 1), 0
  s.n, s.start = s.n - moved / def.record_bytes, s.start + moved / def.record_bytes
end

local function renew_chunks(s)
  for k = 1, s.chunks do
    call('PEXPIRE', chunk(s, k).key, s.def.ttl + DAY_MS)
  end
end

local function pack_head(s)
  local def = s.def
  local edges = #def.edges
  return pack_bytes('<BBBBI4I4i8i8', LAYOUT, def.columns, def.kind, edges, s.chunks, s.next,
      s.trimmed_to, s.base_count) .. (s.sums or pack_sums(def, s.base) .. pack_sums(def, s.offset))
      .. (edges > 0 and pack_bytes(def.hint_format, unpack(s, 1, edges)) or '') .. s.index
end

-- Chunks first: a head never points at one that is not there.
local function flush(s)
  if s.n > HEAD_MAX then
    roll(s)
  end
  if s.writes then
    local numbers = {}
    for number in pairs(s.writes) do
      numbers[#numbers + 1] = number
    end
    -- New chunks, which have the highest numbers, before others are changed: a cluster refuses
    -- to make a key in a slot that is being moved, and nothing must be half-written then.
    table.sort(numbers, function(a, b) return a > b end)
    for _, number in ipairs(numbers) do
      call('SET', s.key .. '#' .. string.format('%.0f', number), s.writes[number],
          'PX', s.def.ttl + DAY_MS)
    end
  end
  local head = pack_head(s) .. (s.from == 0 and s.data or sub(s.data, 1 - s.from))
      .. (s.tail or '')
  -- Written as a whole, for APPEND would reserve up to twice the room.
  if s.exists and not s.is_renewed then
    call('SET', s.key, head, 'KEEPTTL')
  else
    call('SET', s.key, head, 'PX', s.def.ttl)
    renew_chunks(s)
  end
  if s.drops then
    for _, key in ipairs(s.drops) do
      call('DEL', key)
    end
  end
end

-- ---------------------------------------------------------------- recording
-- The entry at hand; one table for all of them spares the collector.

local entry = { values = {} }

local function read_entry(def, arg, pos)
  entry.time, entry.hash, entry.position = unpack_bytes('<i8c8c8', arg, pos)
  entry.version = def.versioned and unpack_bytes('<i8', arg, pos + 24) or 0
  entry.static = sub(arg, pos, pos + def.sums_at - 1)
  for column = 1, def.columns do
    entry.values[column] = unpack_bytes('<i8', arg, pos + def.sums_at + 8 * (column - 1))
  end
end

-- Did a later event of the same partition come before this one? Then this one came late.
local function came_late(s, place)
  local partition = sub(entry.position, 1, 3)
  local last = math.min(s.start + s.n - 1, place + LATE_SCAN_MAX)
  for later = place + 1, last do
    local part, i = part_at(s, later)
    local position = bytes_in(part, i, 16, 24)
    if sub(position, 1, 3) == partition and position < entry.position then
      return true
    end
  end
  return false
end

local function is_conflict(s, part, i)
  local def = s.def
  if def.attributes > 0 and bytes_in(part, i, def.attributes_at, def.sums_at)
      ~= sub(entry.static, def.attributes_at + 1) then
    return true
  end
  for column = 1, def.columns do
    if value_in(s, part, i, column) ~= entry.values[column] then
      return true
    end
  end
  return false
end

local function meet_again(s, part, i)
  local position = bytes_in(part, i, 16, 24)
  local mark = is_conflict(s, part, i) and MARK_CONFLICT or 0
  if position == entry.position or entry.position == ZERO8 then
    return RETRY, mark
  end
  if position == ZERO8 then
    replace(s, part, i, 16, entry.position)
    return RECORDED, mark
  end
  return DUPLICATE, mark
end

-- The newer finding wins; at equal times genuine (0) wins over fraud (1).
local function renew_label(s, part, i)
  local def = s.def
  local at = locate(part, i)
  local version = unpack_bytes('<i8', part.data, at + 24)
  local value, new = value_in(s, part, i, 1), entry.values[1]
  if entry.version < version or (entry.version == version and new >= value) then
    return entry.version == version and new == value and RETRY or SUPERSEDED, 0
  end
  load_whole(part)
  at = locate(part, i)
  local deltas = { minus(new, value) }
  local tail = shifted(def, part.data, at, deltas)
  put_part(s, part, sub(part.data, 1, at - 1) .. sub(tail, 1, 24)
      .. pack_bytes('<i8', entry.version) .. sub(tail, 33), 0, deltas)
  return RECORDED, 0
end

local function insert_late(s, part, i)
  insert_many(s, part, { i }, { entry.static }, entry.values)
end

-- Returns outcome, marks, and the record's place (nil when it is not in the series).
local function record(s)
  local def, t, newest = s.def, entry.time, s.newest
  local total = s.start + s.n
  local place, part, i
  if t > newest then
    place, part, i = total, s, s.n
  else
    place, part, i = place_after(s, t, total)
    local known, at = find(s, t, entry.hash, part, i)
    if known and def.versioned then
      return renew_label(s, known, at)
    elseif known then
      place = known.start + at
      local outcome, mark = meet_again(s, known, at)
      return outcome, mark, place
    end
  end
  local known_from = s.trimmed_to
  if total > s.base_count then
    local reach = newest - def.horizon
    known_from = known_from < reach and reach or known_from
  end
  if t <= known_from then
    if t > s.trimmed_to then
      s.trimmed_to, s.dirty = t, true
    end
    return TOO_LATE, 0, nil
  end
  if place == total then
    -- The time to live only collects garbage: renewing it once a day of event time is enough.
    if t - t % DAY_MS > newest then
      s.is_renewed = true
    end
    append(s, entry.static, entry.values)
    s.newest = t
    return RECORDED, 0, place
  end
  insert_late(s, part, i)
  return RECORDED, MARK_LATE, place
end

-- ---------------------------------------------------------------- reading
-- By edge of a window, for the entry at hand: its place, and the sums before it, from slot
-- edge · edge_slots + 1 on. Windows share edges, so each is looked for once.

local places, sums_at_edge = {}, {}
local COLUMNS_AT_ONCE = 5

-- What follows the last column is where the next field begins: it goes into a slot nobody reads.
local function keep_sums(at, a, b, c, d, e, f)
  local sums = sums_at_edge
  sums[at + 1], sums[at + 2], sums[at + 3] = a, b, c
  if d then
    sums[at + 4], sums[at + 5], sums[at + 6] = d, e, f
  end
end

local function keep_edge(s, e, place, part, i)
  places[e] = place
  local def = s.def
  local columns = def.columns
  if columns == 0 then
    return
  end
  local at = e * def.edge_slots
  if i > 0 and not part.offset and columns <= COLUMNS_AT_ONCE then
    if part.tail and i == part.n then
      keep_sums(at, unpack_bytes(def.value_format, part.tail, #part.tail - 8 * columns + 1))
    else
      local from = locate(part, i - 1)
      keep_sums(at, unpack_bytes(def.value_format, part.data, from + def.sums_at))
    end
  else
    for column = 1, columns do
      sums_at_edge[at + column] = sum_before(s, part, i, column)
    end
  end
end

-- The entry's own place, counted or not. Without a record: after all up to its time.
local function own_place(s, e, t, own)
  if not own then
    keep_edge(s, e, place_after(s, t, s.start + s.n))
    return
  end
  local part, i = part_at(s, own)
  local counted = e == s.def.own and 1 or 0
  keep_edge(s, e, own + counted, part, i + counted)
end

-- Find an edge; its place is where it is looked for next.
local function search_edge(s, e, edge)
  local place, part, i = place_after(s, edge, s[e])
  s[e] = place
  keep_edge(s, e, place, part, i)
end

-- Find all edges that lie in what is known; the places of the others are false. Nearly always an
-- edge lies in the head, at or shortly after the place where it was found last: that case is
-- written out, for a call costs as much as what it would do.
local function find_edges(s, t, known_from)
  local def, data, start = s.def, s.data, s.start
  local edges, columns, size, slots = def.edges, def.columns, def.record_bytes, def.edge_slots
  local first, last = 1 - s.from, #data - size + 1  -- where the first and last record here begin
  local first_place = s.chunks == 0 and 0 or 1
  local is_plain = not s.offset and columns > 0 and columns <= COLUMNS_AT_ONCE
  for e = 1, #edges do
    local edge = t - edges[e]
    if edge < known_from then
      places[e] = false
    else
      local i = s[e] - start
      local at = first + i * size  -- where the record after the edge begins
      local stop = at
      if i >= first_place and at <= last + size
          and (i == 0 or unpack_bytes('<i8', data, at - size) <= edge) then
        stop = at + STEPS * size
      end
      while at < stop and at <= last and unpack_bytes('<i8', data, at) <= edge do
        i, at = i + 1, at + size
      end
      if at >= stop or (at > last and i ~= s.n and (i < s.n - 1 or s.newest <= edge)) then
        search_edge(s, e, edge)
      else
        s[e], places[e] = start + i, start + i
        if is_plain and i > 0 then
          keep_sums(e * slots, unpack_bytes(def.value_format, data, at - 8 * columns))
        elseif columns > 0 then
          keep_edge(s, e, start + i, s, i)
        end
      end
    end
  end
end

local function place_of(s, e, t, own)
  if not places[e] then
    if e >= s.def.own then
      own_place(s, e, t, own)
    else
      search_edge(s, e, t - s.def.edges[e])
    end
  end
  return places[e]
end

local function read_windows(s, t, own, row)
  local def = s.def
  local columns, uppers, lowers = def.columns, def.uppers, def.lowers
  local sums, slots = sums_at_edge, def.edge_slots
  local at = 3
  for w = 1, #uppers do
    local l, u = lowers[w], uppers[w]
    if places[l] then
      row[at] = (places[u] or place_of(s, u, t, own)) - places[l]
      l, u = l * slots, u * slots
      for column = 1, columns do
        local sum = sums[u + column] - sums[l + column]
        row[at + column] = sum < 0 and sum + MODULUS or sum
      end
    else
      row[at] = UNKNOWN
      for column = 1, columns do
        row[at + column] = 0
      end
    end
    at = at + 1 + columns
  end
  return at
end

-- Go through the records of places [first, last): visit(part, i, where it begins in part.data).
local function each_record(s, first, last, visit)
  local place = first
  while place < last do
    local part, i = part_at(s, place)
    local till = math.min(part.n, i + last - place)
    if part ~= s and #part.data < part.n * part.def.record_bytes then
      read_block(part, i, till)
    end
    for j = i, till - 1 do
      visit(part, j, locate(part, j))
    end
    place = place + till - i
  end
end

local function scan_distinct(s, scan, first, last)
  local seen, count = { [ZERO8] = true }, 0
  local at = s.def.attributes_at + 8 * (scan.field - 1)
  each_record(s, first, last, function(part, _, pos)
    local value = sub(part.data, pos + at, pos + at + 7)
    if not seen[value] then
      seen[value] = true
      count = count + 1
    end
  end)
  return count
end

local function scan_quantile(s, scan, first, last)
  local amounts = {}
  local part, i = part_at(s, first)
  local known_before = sum_before(s, part, i, scan.known)
  local before = sum_before(s, part, i, scan.field)
  local known_at, at = s.def.sums_at + 8 * (scan.known - 1), s.def.sums_at + 8 * (scan.field - 1)
  each_record(s, first, last, function(p, _, pos)
    local known, sum = unpack_bytes('<i8', p.data, pos + known_at),
        unpack_bytes('<i8', p.data, pos + at)
    if p.offset then
      known, sum = plus(known, p.offset[scan.known]), plus(sum, p.offset[scan.field])
    end
    if minus(known, known_before) == 1 then
      amounts[#amounts + 1] = minus(sum, before)
    end
    known_before, before = known, sum
  end)
  if #amounts == 0 then
    return NOTHING
  end
  table.sort(amounts)
  return amounts[math.max(math.ceil(#amounts * scan.per_mille / 1000), 1)]
end

local function scan_last(s, scan, t, own, known_from)
  local def = s.def
  local upper = place_of(s, scan.upper == def.own and def.before_own or scan.upper, t, own)
  local first = t - def.edges[scan.lower]
  if upper > s.base_count then
    local part, i = part_at(s, upper - 1)
    local found = time_in(part, i)
    if found > first then
      return t - found
    end
  end
  return first < known_from and UNKNOWN or NOTHING
end

local function read_scan(s, scan, t, own, known_from)
  if known_from == NEVER then
    return UNKNOWN
  elseif scan.kind ~= DISTINCT and scan.kind ~= QUANTILE then
    return scan_last(s, scan, t, own, known_from)
  elseif t - s.def.edges[scan.lower] < known_from then
    return UNKNOWN
  end
  local upper = place_of(s, scan.upper, t, own)
  local lower = math.max(place_of(s, scan.lower, t, own), upper - SCAN_MAX)
  if lower >= upper then
    return scan.kind == DISTINCT and 0 or NOTHING
  end
  local read = scan.kind == DISTINCT and scan_distinct or scan_quantile
  return read(s, scan, lower, upper)
end

local row = {}

local function process(s, is_recorded, known_from, oldest, record_only, rows)
  local def, t = s.def, entry.time
  local outcome, mark, own = READ_ONLY, 0, nil
  if is_recorded then
    outcome, mark, own = record(s)
  end
  if record_only then
    rows[#rows + 1] = pack_bytes('<i8i8', outcome, mark)
  else
    if own and outcome ~= RECORDED and came_late(s, own) then
      mark = mark + MARK_LATE
    end
    if outcome == TOO_LATE then
      known_from = NEVER
    elseif known_from < s.trimmed_to then
      known_from = s.trimmed_to
    end
    row[1], row[2] = outcome, mark
    find_edges(s, t, known_from)
    places[def.own], places[def.before_own] = false, false
    local at = read_windows(s, t, own, row)
    for i = 1, #def.scans do
      row[at] = read_scan(s, def.scans[i], t, own, known_from)
      at = at + 1
    end
    rows[#rows + 1] = pack_bytes(def.row_format, unpack(row, 1, def.row_numbers))
  end
  if outcome == RECORDED then
    trim(s, oldest)
  end
end

-- ---------------------------------------------------------------- the functions

local function layout_error()
  return redis.error_reply('LAYOUT a profile key holds another layout')
end

-- What the bucket remembers of the log: may the call be applied?
local function read_marks(keys, header)
  local fields = { 'e', 'f' }
  for i, stretch in ipairs(header.stretches) do
    fields[i + 2] = stretch.field
  end
  local known = call('HMGET', keys[1], unpack(fields))
  local marks = { known_epoch = known[1], epoch = known[1] or header.candidate,
                  floor = tonumber(known[2] or '0'), stored = {} }
  marks.is_applied = header.epoch == ZERO8 or header.epoch == marks.epoch
  for i, stretch in ipairs(header.stretches) do
    local stored = known[i + 2] and tonumber(known[i + 2])
    if not stored and has_flag(header.flags, FLAG_INITIAL) then
      stored = -1
    elseif not stored or stored < stretch.first then
      marks.is_applied = false
    end
    marks.stored[i] = stored
  end
  marks.rebuilding = call('HLEN', keys[2])
  return marks
end

local function advance(keys, header, marks)
  if not marks.known_epoch then
    call('HSET', keys[1], 'e', marks.epoch, 'f', string.format('%.0f', marks.floor))
  end
  if has_flag(header.flags, FLAG_KEEP_FLOOR) and header.floor > marks.floor then
    call('HSET', keys[1], 'f', string.format('%.0f', header.floor))
  end
  for i, stretch in ipairs(header.stretches) do
    local stored = marks.stored[i]
    if stretch.last > stored then
      call('HSET', keys[1], stretch.field, string.format('%.0f', stretch.last))
    end
    if marks.rebuilding > 0 then
      local target = tonumber(call('HGET', keys[2], stretch.field) or nil)
      if target and math.max(stretch.last, stored) >= target then
        call('HDEL', keys[2], stretch.field)
      end
    end
  end
end

-- Carry out the entries on copies; nil if a key holds something else.
local function process_entries(keys, arg, defs, header, known_from)
  local loaded, order, rows, pos = {}, {}, {}, 1
  local record_only = has_flag(header.flags, FLAG_RECORD_ONLY)
  for i = 1, #defs do
    rows[i] = {}
  end
  for i = 3, #keys do
    local number, is_recorded = byte(arg, pos, pos + 1)
    local def, key = defs[number + 1], keys[i]
    local s = loaded[key]
    if not s then
      s = load_series(def, key)
      if not s then
        return nil
      end
      loaded[key] = s
      order[#order + 1] = s
    end
    read_entry(def, arg, pos + 2)
    process(s, is_recorded == 1, known_from, header.oldest, record_only, rows[number + 1])
    pos = pos + 2 + def.record_bytes
  end
  return order, rows
end

local function apply(keys, args)
  bind()
  local header = parse_header(args[1])
  local defs = parse_series(args[2])
  local marks = read_marks(keys, header)
  if not marks.is_applied then
    return { 0, marks.known_epoch or '', call('HLEN', keys[1]), marks.rebuilding }
  end
  local changed, rows =
      process_entries(keys, args[3], defs, header, math.max(marks.floor, header.floor))
  if not changed then
    return layout_error()
  end
  for _, s in ipairs(changed) do
    if s.dirty then
      flush(s)
    end
  end
  advance(keys, header, marks)
  local reply = { 1, marks.epoch, call('HLEN', keys[1]), call('HLEN', keys[2]) }
  for i = 1, #defs do
    reply[#reply + 1] = table.concat(rows[i])
  end
  return reply
end

-- Records on their way into one part of a series.
local function new_group(part)
  return { part = part, places = {}, statics = {}, values = {}, seen = {} }
end

local function insert_group(s, group)
  if group.part and #group.places > 0 then
    insert_many(s, group.part, group.places, group.statics, group.values)
    s.newest = (time_in(s, s.n - 1))
  end
end

local function add_to_group(group, i, def)
  group.seen[entry.time .. entry.hash] = true
  local count = #group.places + 1
  group.places[count], group.statics[count] = i, entry.static
  for column = 1, def.columns do
    group.values[(count - 1) * def.columns + column] = entry.values[column]
  end
end

-- A record that is there already: take over what it lacks. Gives what that cost.
local function reconcile(s, part, i)
  if s.def.versioned then
    renew_label(s, part, i)
  elseif bytes_in(part, i, 16, 24) == ZERO8 and entry.position ~= ZERO8 then
    replace(s, part, i, 16, entry.position)
  else
    return 0
  end
  return part.n / (s.def.versioned and 1 or 64)
end

local function merge_records(s, run)
  local def, work, pos = s.def, 0, 1
  local group, guess = new_group(nil), s.base_count
  while pos <= #run and work < MERGE_WORK_MAX do
    read_entry(def, run, pos)
    if entry.time > s.trimmed_to then
      local part, i
      if entry.time > s.newest then
        part, i = s, s.n
      else
        guess, part, i = place_after(s, entry.time, guess)
      end
      if part ~= group.part or group.seen[entry.time .. entry.hash] then
        insert_group(s, group)
        -- What has just been inserted may have moved it.
        guess, part, i = place_after(s, entry.time, part.start + i)
        group = new_group(part)
        work = work + part.n - i
      end
      local known, at = nil, nil
      if entry.time <= s.newest then
        known, at = find(s, entry.time, entry.hash, part, i)
      end
      if known then
        insert_group(s, group)
        guess, part, i = place_after(s, entry.time, part.start + i)
        known, at = find(s, entry.time, entry.hash, part, i)
        work = work + reconcile(s, known, at)
        group = new_group(nil)
      else
        add_to_group(group, i, def)
      end
    end
    work = work + 1
    pos = pos + def.record_bytes
  end
  insert_group(s, group)
  return (pos - 1) / def.record_bytes
end

local function merge(keys, args)
  bind()
  local s = load_series(parse_series(args[1])[1], keys[1])
  if not s then
    return layout_error()
  end
  local done = merge_records(s, args[2])
  if s.dirty then
    flush(s)
  end
  return done
end

-- Places begin anew at 0, and sums with them: what came before is not to be told from them.
local function erase_base(s, sums)
  local def, size = s.def, s.def.index_bytes
  local deltas = {}
  for column = 1, def.columns do
    deltas[column] = minus(0, sums[column])
  end
  move_later(s, 0, -s.base_count, deltas)
  s.base, s.base_count, s.parts = nil, 0, nil
  if s.n == 0 and s.chunks == 0 then
    s.offset, s.sums = nil, nil  -- or the erased sums could be read off what is left
  end
  for e = 1, #def.edges do
    s[e] = 0
  end
end

local function forget(keys, args)
  bind()
  local s = load_series(parse_series(args[1])[1], keys[1])
  if not s then
    return layout_error()
  end
  local until_ms = unpack_bytes('<i8', args[2])
  local place, part, i = place_after(s, until_ms, s.base_count)
  local dropped, sums = place - s.base_count, {}
  for column = 1, s.def.columns do
    sums[column] = sum_before(s, part, i, column)
  end
  drop_before(s, place)
  s.base_count = place
  erase_base(s, sums)
  s.trimmed_to, s.is_renewed = math.max(s.trimmed_to, until_ms), true
  flush(s)
  return dropped
end

redis.register_function('fs_apply_@DIGEST@', apply)
redis.register_function('fs_merge_@DIGEST@', merge)
redis.register_function('fs_forget_@DIGEST@', forget)
