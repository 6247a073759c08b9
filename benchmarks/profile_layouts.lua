#!lua name=fraudstream_layouts
--[[
Two other layouts of a card's payments, as small as they can be and still answer the same: records
in order, found again by (time, hash), count and two sums of three windows. No late arrivals, no
trimming, no chunks, no checks: all of that would come on top.

  layout_append  a string of 40-byte records with cumulative sums, and nothing else: written by
                 APPEND, each window's edge found by binary search
  layout_sorted  a sorted set: score event time; member hash · source position · cumulative sums

FCALL <function> <number of keys> <series key of each entry …>
  ARGV[1]  entries, each: u8 series · u8 recorded · i64 event_time_ms · 8 B hash · 8 B position
           i64 amount · i64 known
  returns  rows: i64 outcome · i64 marks · for each window: i64 count · i64 sum · i64 sum
]]

local DAY_MS = 86400000
local WINDOWS = { DAY_MS, 7 * DAY_MS, 30 * DAY_MS }
local RECORDED, RETRY = 1, 2
local ROW = '<i8i8i8i8i8i8i8i8i8i8i8'

local function each_entry(keys, arg, process)
  local rows, pos = {}, 1
  for i = 1, #keys do
    local t, hash, position, amount, known = struct.unpack('<i8c8c8i8i8', arg, pos + 2)
    rows[i] = struct.pack(ROW, process(keys[i], t, hash, position, amount, known))
    pos = pos + 42
  end
  return table.concat(rows)
end

local function count_until(data, t)
  local low, high = 0, #data / 40
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('<i8', data, middle * 40 + 1) <= t then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function sums_in_string(data, count)
  if count == 0 then
    return 0, 0
  end
  return struct.unpack('<i8i8', data, count * 40 - 15)
end

local function append(key, t, hash, position, amount, known)
  local data = redis.call('GET', key) or ''
  local outcome, upper = RECORDED, count_until(data, t)
  local i = upper
  while i > 0 and struct.unpack('<i8', data, i * 40 - 39) == t do
    if string.sub(data, i * 40 - 31, i * 40 - 24) == hash then
      outcome, upper = RETRY, i
      break
    end
    i = i - 1
  end
  if outcome == RECORDED then
    local sum, sum_known = sums_in_string(data, upper)
    local record = struct.pack('<i8c8c8i8i8', t, hash, position, sum + amount, sum_known + known)
    redis.call('APPEND', key, record)
    data, upper = data .. record, upper + 1
  end
  local sum, sum_known = sums_in_string(data, upper)
  local row = { outcome, 0 }
  for _, length in ipairs(WINDOWS) do
    local lower = count_until(data, t - length)
    local before, known_before = sums_in_string(data, lower)
    row[#row + 1] = upper - lower
    row[#row + 1] = sum - before
    row[#row + 1] = sum_known - known_before
  end
  return unpack(row)
end

local function sums_in_set(key, t)
  local found = redis.call('ZRANGE', key, string.format('%.0f', t), '-inf', 'BYSCORE', 'REV',
      'LIMIT', 0, 1)
  if not found[1] then
    return 0, 0
  end
  return struct.unpack('<i8i8', found[1], 17)
end

local function sorted(key, t, hash, position, amount, known)
  local outcome = RECORDED
  local score = string.format('%.0f', t)
  for _, member in ipairs(redis.call('ZRANGE', key, score, score, 'BYSCORE')) do
    if string.sub(member, 1, 8) == hash then
      outcome = RETRY
    end
  end
  local sum, sum_known = sums_in_set(key, t)
  if outcome == RECORDED then
    sum, sum_known = sum + amount, sum_known + known
    redis.call('ZADD', key, score, hash .. position .. struct.pack('<i8i8', sum, sum_known))
  end
  local row = { outcome, 0 }
  for _, length in ipairs(WINDOWS) do
    local before, known_before = sums_in_set(key, t - length)
    row[#row + 1] = redis.call('ZCOUNT', key, '(' .. string.format('%.0f', t - length), score)
    row[#row + 1] = sum - before
    row[#row + 1] = sum_known - known_before
  end
  return unpack(row)
end

redis.register_function('layout_append', function(keys, args)
  return each_entry(keys, args[1], append)
end)
redis.register_function('layout_sorted', function(keys, args)
  return each_entry(keys, args[1], sorted)
end)
