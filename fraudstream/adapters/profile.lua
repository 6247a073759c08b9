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
  fs:<namespace>:<definitions>:{<bucket>}:<series>:<entity>     string: header, then records
      header  u8 layout (1) · u8 columns · u16 header bytes · u32 older chunks (0)
              i64 trimmed_to_ms: records at or before it are gone
              i64 base count: how many those were · i64 base sum, a column
      record  i64 event_time_ms · 8 B hash of the transaction id
              8 B source position of the first writer (big-endian: u8 topic, u16 partition,
              u40 offset + 1; all zero: not through Kafka) · [i64 version, label series only]
              i64 cumulative sum up to and including this record, a column
  Records are in order of event time; equal times keep arrival order. The count is the place.

FCALL fs_apply_@DIGEST@ <number of keys> <watermarks> <rebuilding> <series key of each entry …>
  ARGV[1]  u8 flags (1: set missing watermarks to their stretch's start; 2: record only, read
           nothing; 4: keep the floor given here) · 8 B expected epoch (zero: any)
           8 B epoch if there is none · i64 floor_ms (0: none) · i64 oldest_ms: nothing is trimmed
           that an event of this time looks back on, for the whole batch may come again after a
           crash · u16 stretches, then each
           u8 topic · u16 partition · i64 start · i64 end
  ARGV[2]  u8 series, then each: u8 columns · u8 versioned · i64 horizon_ms · i64 ttl_ms
           u8 windows, then each: i64 length_ms · i64 lag_ms
  ARGV[3]  entries, each: u8 series (from 0) · u8 recorded · i64 event_time_ms · 8 B id hash
           8 B source position · i64 version · i64 value, a column
  returns  { applied 0|1, epoch, watermarks known, partitions being rebuilt,
             rows of series 0, rows of series 1, … }
           a row: i64 outcome · i64 marks · for each window: i64 count (-1: reaches back before
           what is known) · i64 sum, a column
A call is all or nothing: every check comes before the first write, and a stretch that starts above
the stored watermark (something in between was lost) writes nothing at all.
]]

local LAYOUT = 1
local ZERO8 = '\0\0\0\0\0\0\0\0'  -- at load time not even string.rep is there
local SMALL_BYTES = 16384      -- up to here a series is read as a whole, above it by pieces
local LATE_SCAN_MAX = 512      -- a retry can lie behind at most a batch of later records
local DAY_MS = 86400000

local READ_ONLY, RECORDED, RETRY, DUPLICATE, TOO_LATE, SUPERSEDED = 0, 1, 2, 3, 4, 5
local MARK_LATE, MARK_CONFLICT = 1, 2
local FLAG_INITIAL, FLAG_RECORD_ONLY, FLAG_KEEP_FLOOR = 1, 2, 4

local function has_flag(flags, flag)
  return math.floor(flags / flag) % 2 == 1
end

-- ---------------------------------------------------------------- arguments

local function parse_header(arg)
  local h = { stretches = {} }
  local count, pos
  h.flags, h.epoch, h.candidate, h.floor, h.oldest, count, pos =
      struct.unpack('<Bc8c8i8i8H', arg)
  for i = 1, count do
    local topic, partition, first, last
    topic, partition, first, last, pos = struct.unpack('<BHi8i8', arg, pos)
    h.stretches[i] = { field = topic .. ':' .. partition, first = first, last = last }
  end
  return h
end

local function parse_series(arg)
  local defs = {}
  local count, pos = struct.unpack('<B', arg)
  for i = 1, count do
    local d = { windows = {} }
    local columns, versioned, windows
    columns, versioned, d.horizon, d.ttl, windows, pos = struct.unpack('<BBi8i8B', arg, pos)
    d.columns, d.versioned = columns, versioned == 1
    for w = 1, windows do
      local length, lag
      length, lag, pos = struct.unpack('<i8i8', arg, pos)
      d.windows[w] = { length = length, lag = lag }
    end
    d.sums_at = d.versioned and 32 or 24
    d.record_bytes = d.sums_at + 8 * columns
    d.header_bytes = 24 + 8 * columns
    d.value_format = '<' .. string.rep('i8', columns)
    d.row_format = '<i8i8' .. string.rep('i8', windows * (1 + columns))
    d.rows = {}
    defs[i] = d
  end
  return defs
end

-- ---------------------------------------------------------------- one series

local function load_series(def, key)
  local s = { key = key, def = def, n = 0, trimmed_to = 0, exists = false }
  local head = redis.call('GETRANGE', key, 0, SMALL_BYTES - 1)
  if #head == 0 then
    s.data = ''
    return s
  end
  if #head < def.header_bytes then
    return nil
  end
  local layout, columns, header_bytes = struct.unpack('<BBH', head)
  if layout ~= LAYOUT or columns ~= def.columns or header_bytes ~= def.header_bytes then
    return nil
  end
  local bytes = #head
  if bytes == SMALL_BYTES then
    bytes = redis.call('STRLEN', key)
  end
  if (bytes - header_bytes) % def.record_bytes ~= 0 then
    return nil
  end
  s.exists = true
  s.n = (bytes - header_bytes) / def.record_bytes
  s.trimmed_to = struct.unpack('<i8', head, 9)
  s.header = string.sub(head, 1, header_bytes)
  s.data = bytes <= SMALL_BYTES and head or nil
  return s
end

local function bytes_at(s, index, offset, length)
  local at = s.def.header_bytes + index * s.def.record_bytes + offset
  if s.data then
    return string.sub(s.data, at + 1, at + length)
  end
  return redis.call('GETRANGE', s.key, at, at + length - 1)
end

local function number_at(s, index, offset)
  local at = s.def.header_bytes + index * s.def.record_bytes + offset
  if s.data then
    return (struct.unpack('<i8', s.data, at + 1))
  end
  return (struct.unpack('<i8', redis.call('GETRANGE', s.key, at, at + 7)))
end

local function time_at(s, index)
  return number_at(s, index, 0)
end

-- Cumulative sum up to and including a record; before the first one, the header's base sum.
local function sum_at(s, index, column)
  if index < 0 then
    if not s.exists then
      return 0
    end
    return (struct.unpack('<i8', s.header, 25 + 8 * (column - 1)))
  end
  return number_at(s, index, s.def.sums_at + 8 * (column - 1))
end

-- How many of the first `high` records are at or before time t.
local function count_until(s, t, high)
  if high == 0 or time_at(s, high - 1) <= t then
    return high
  end
  local low = 0
  high = high - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if time_at(s, middle) <= t then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function find(s, entry, place)
  local index = place - 1
  while index >= 0 and time_at(s, index) == entry.time do
    if bytes_at(s, index, 8, 8) == entry.hash then
      return index
    end
    index = index - 1
  end
  return nil
end

-- Write bytes into the string, from a record's field on, in Valkey and in our copy alike.
local function write_at(s, index, offset, bytes)
  local at = s.def.header_bytes + index * s.def.record_bytes + offset
  redis.call('SETRANGE', s.key, at, bytes)
  if s.data then
    s.data = string.sub(s.data, 1, at) .. bytes .. string.sub(s.data, at + #bytes + 1)
  end
end

local function pack_record(def, entry, sums)
  local static = struct.pack('<i8c8c8', entry.time, entry.hash, entry.position)
  if def.versioned then
    static = static .. struct.pack('<i8', entry.version)
  end
  return static .. struct.pack(def.value_format, unpack(sums))
end

-- The records from `first` on, with deltas added to their cumulative sums.
local function shifted_tail(s, first, deltas)
  local def = s.def
  local size = def.record_bytes
  local at = def.header_bytes + first * size
  local tail
  if s.data then
    tail = string.sub(s.data, at + 1)
  else
    tail = redis.call('GETRANGE', s.key, at, -1)
  end
  if def.columns == 0 then
    return tail
  end
  local pieces = {}
  for pos = 1, #tail, size do
    local sums = { struct.unpack(def.value_format, tail, pos + def.sums_at) }
    for column = 1, def.columns do
      sums[column] = sums[column] + deltas[column]
    end
    pieces[#pieces + 1] = string.sub(tail, pos, pos + def.sums_at - 1)
    pieces[#pieces + 1] = struct.pack(def.value_format, unpack(sums, 1, def.columns))
  end
  return table.concat(pieces)
end

local function create(s, record)
  local def = s.def
  s.header = struct.pack('<BBHI4i8i8', LAYOUT, def.columns, def.header_bytes, 0, 0, 0)
      .. string.rep(ZERO8, def.columns)
  s.data = s.header .. record
  s.exists = true
  redis.call('SET', s.key, s.data, 'PX', def.ttl)
end

local function insert(s, entry, place)
  local sums = {}
  for column = 1, s.def.columns do
    sums[column] = sum_at(s, place - 1, column) + entry.values[column]
  end
  local record = pack_record(s.def, entry, sums)
  if not s.exists then
    create(s, record)
  elseif place == s.n then
    -- The time to live only collects garbage: renewing it once a day of event time is enough.
    if math.floor(entry.time / DAY_MS) ~= math.floor(s.newest / DAY_MS) then
      redis.call('PEXPIRE', s.key, s.def.ttl)
    end
    redis.call('APPEND', s.key, record)
    if s.data then
      s.data = s.data .. record
    end
  else
    write_at(s, place, 0, record .. shifted_tail(s, place, entry.values))
  end
  s.n = s.n + 1
  if s.data and #s.data > SMALL_BYTES then
    s.data = nil
  end
end

local function set_trimmed_to(s, trimmed_to)
  s.trimmed_to = trimmed_to
  s.header = string.sub(s.header, 1, 8) .. struct.pack('<i8', trimmed_to)
      .. string.sub(s.header, 17)
  redis.call('SETRANGE', s.key, 8, string.sub(s.header, 9, 16))
  if s.data then
    s.data = s.header .. string.sub(s.data, #s.header + 1)
  end
end

-- Drop what no window can reach, once a quarter of the series is of that kind.
local function trim(s, oldest)
  local floor = math.min(time_at(s, s.n - 1), oldest) - s.def.horizon
  if s.n < 4 or time_at(s, math.floor(s.n / 4)) > floor then
    return
  end
  local dropped = count_until(s, floor, s.n)
  local base = {}
  for column = 1, s.def.columns do
    base[column] = sum_at(s, dropped - 1, column)
  end
  local base_count = struct.unpack('<i8', s.header, 17) + dropped
  local rest_at = s.def.header_bytes + dropped * s.def.record_bytes
  local rest
  if s.data then
    rest = string.sub(s.data, rest_at + 1)
  else
    rest = redis.call('GETRANGE', s.key, rest_at, -1)
  end
  s.trimmed_to = math.max(s.trimmed_to, floor)
  s.header = string.sub(s.header, 1, 8) .. struct.pack('<i8i8', s.trimmed_to, base_count)
  if s.def.columns > 0 then
    s.header = s.header .. struct.pack(s.def.value_format, unpack(base))
  end
  s.n = s.n - dropped
  local whole = s.header .. rest
  s.data = #whole <= SMALL_BYTES and whole or nil
  redis.call('SET', s.key, whole, 'KEEPTTL')
end

-- ---------------------------------------------------------------- recording

-- Did a later event of the same partition come before this one? Then this one came late.
local function came_late(s, entry, index)
  local partition = string.sub(entry.position, 1, 3)
  local last = math.min(s.n - 1, index + LATE_SCAN_MAX)
  for later = index + 1, last do
    local position = bytes_at(s, later, 16, 8)
    if string.sub(position, 1, 3) == partition and position < entry.position then
      return true
    end
  end
  return false
end

local function is_conflict(s, entry, index)
  for column = 1, s.def.columns do
    if sum_at(s, index, column) - sum_at(s, index - 1, column) ~= entry.values[column] then
      return true
    end
  end
  return false
end

local function meet_again(s, entry, index)
  local position = bytes_at(s, index, 16, 8)
  local mark = is_conflict(s, entry, index) and MARK_CONFLICT or 0
  if position == entry.position or entry.position == ZERO8 then
    return RETRY, mark
  end
  if position == ZERO8 then
    write_at(s, index, 16, entry.position)
    return RECORDED, mark
  end
  return DUPLICATE, mark
end

-- The newer finding wins; at equal times genuine (0) wins over fraud (1).
local function renew_label(s, entry, index)
  local version = number_at(s, index, 24)
  local value = sum_at(s, index, 1) - sum_at(s, index - 1, 1)
  if entry.version < version or (entry.version == version and entry.values[1] >= value) then
    local is_same = entry.version == version and entry.values[1] == value
    return is_same and RETRY or SUPERSEDED, 0
  end
  local tail = shifted_tail(s, index, { entry.values[1] - value })
  local renewed = string.sub(tail, 1, 24) .. struct.pack('<i8', entry.version)
      .. string.sub(tail, 33)
  write_at(s, index, 0, renewed)
  return RECORDED, 0
end

-- Returns outcome, marks, and the record's index (nil when it is not in the series).
local function record(s, entry)
  s.newest = s.n > 0 and time_at(s, s.n - 1) or 0
  local place = count_until(s, entry.time, s.n)
  local index = find(s, entry, place)
  if index then
    if s.def.versioned then
      return renew_label(s, entry, index)
    end
    local outcome, mark = meet_again(s, entry, index)
    return outcome, mark, index
  end
  local floor = math.max(s.trimmed_to, s.newest - s.def.horizon)
  if s.exists and entry.time <= floor then
    if entry.time > s.trimmed_to then
      set_trimmed_to(s, entry.time)
    end
    return TOO_LATE, 0, nil
  end
  insert(s, entry, place)
  return RECORDED, place < s.n - 1 and MARK_LATE or 0, place
end

-- ---------------------------------------------------------------- reading

-- Counts and sums of every window, as of the first `upto` records.
local function read_windows(s, t, upto, known_from, row)
  local columns = s.def.columns
  for _, window in ipairs(s.def.windows) do
    local last = t - window.lag
    local first = last - window.length
    if first < known_from then
      row[#row + 1] = -1
      for _ = 1, columns do
        row[#row + 1] = 0
      end
    else
      local upper = window.lag == 0 and upto or count_until(s, last, upto)
      local lower = count_until(s, first, upper)
      row[#row + 1] = upper - lower
      for column = 1, columns do
        row[#row + 1] = upper == lower and 0
            or sum_at(s, upper - 1, column) - sum_at(s, lower - 1, column)
      end
    end
  end
end

local function process(s, entry, floor, oldest, record_only)
  local outcome, mark, index = READ_ONLY, 0, nil
  if entry.recorded then
    outcome, mark, index = record(s, entry)
  end
  if record_only then
    if outcome == RECORDED then
      trim(s, oldest)
    end
    s.def.rows[#s.def.rows + 1] = struct.pack('<i8i8', outcome, mark)
    return
  end
  if index and outcome ~= RECORDED and came_late(s, entry, index) then
    mark = mark + MARK_LATE
  end
  local row = { outcome, mark }
  local known_from = math.max(floor, s.trimmed_to)
  if outcome == TOO_LATE then
    known_from = math.huge
  end
  local upto = index and index + 1 or count_until(s, entry.time, s.n)
  read_windows(s, entry.time, upto, known_from, row)
  s.def.rows[#s.def.rows + 1] = struct.pack(s.def.row_format, unpack(row))
  if outcome == RECORDED then
    trim(s, oldest)
  end
end

-- ---------------------------------------------------------------- the function

local function parse_entry(arg, pos, defs)
  local entry = {}
  local series, recorded
  series, recorded, entry.time, entry.hash, entry.position, entry.version, pos =
      struct.unpack('<BBi8c8c8i8', arg, pos)
  entry.def = defs[series + 1]
  entry.recorded = recorded == 1
  entry.values = {}
  for column = 1, entry.def.columns do
    entry.values[column], pos = struct.unpack('<i8', arg, pos)
  end
  return entry, pos
end

local function advance(keys, stretches, stored, rebuilding)
  for i, stretch in ipairs(stretches) do
    if stretch.last > stored[i] then
      redis.call('HSET', keys[1], stretch.field, string.format('%.0f', stretch.last))
    end
    if rebuilding > 0 then
      local target = tonumber(redis.call('HGET', keys[2], stretch.field) or nil)
      if target and math.max(stretch.last, stored[i]) >= target then
        redis.call('HDEL', keys[2], stretch.field)
      end
    end
  end
end

local function apply(keys, args)
  local header = parse_header(args[1])
  local defs = parse_series(args[2])

  -- What the bucket remembers of the log.
  local fields = { 'e', 'f' }
  for i, stretch in ipairs(header.stretches) do
    fields[i + 2] = stretch.field
  end
  local known = redis.call('HMGET', keys[1], unpack(fields))
  local epoch = known[1] or header.candidate
  local stored_floor = tonumber(known[2] or '0')
  local is_applied = header.epoch == ZERO8 or header.epoch == epoch
  local stored = {}
  for i, stretch in ipairs(header.stretches) do
    stored[i] = known[i + 2] and tonumber(known[i + 2])
    if not stored[i] and has_flag(header.flags, FLAG_INITIAL) then
      stored[i] = -1
    elseif not stored[i] or stored[i] < stretch.first then
      is_applied = false
    end
  end
  local rebuilding = redis.call('HLEN', keys[2])
  if not is_applied then
    return { 0, known[1] or '', redis.call('HLEN', keys[1]), rebuilding }
  end

  -- Read and check every series before the first write.
  local entries, loaded, pos = {}, {}, 1
  for i = 3, #keys do
    local entry
    entry, pos = parse_entry(args[3], pos, defs)
    local series = loaded[keys[i]]
    if not series then
      series = load_series(entry.def, keys[i])
      if not series then
        return redis.error_reply('LAYOUT a profile key holds another layout')
      end
      loaded[keys[i]] = series
    end
    entry.series = series
    entries[#entries + 1] = entry
  end

  local floor = math.max(stored_floor, header.floor)
  if not known[1] then
    redis.call('HSET', keys[1], 'e', epoch, 'f', string.format('%.0f', stored_floor))
  end
  if has_flag(header.flags, FLAG_KEEP_FLOOR) and header.floor > stored_floor then
    redis.call('HSET', keys[1], 'f', string.format('%.0f', header.floor))
  end
  local record_only = has_flag(header.flags, FLAG_RECORD_ONLY)
  for _, entry in ipairs(entries) do
    process(entry.series, entry, floor, header.oldest, record_only)
  end
  advance(keys, header.stretches, stored, rebuilding)

  local reply = { 1, epoch, redis.call('HLEN', keys[1]), redis.call('HLEN', keys[2]) }
  for _, def in ipairs(defs) do
    reply[#reply + 1] = table.concat(def.rows)
  end
  return reply
end

redis.register_function('fs_apply_@DIGEST@', apply)
