-- One question to, or one piece of news for, the bucket of one kind of request. Redis runs it as one step, and its
-- own clock is the only one: those of the workers do not matter. What the numbers mean stands in provider_budget.py.
--
-- KEYS     bucket (JSON), unanswered (sorted set: caller -> when its grant is forgotten),
--          waiting (sorted set: request -> when it was told to come again), users (sorted set: user -> the latest such
--          moment among the user's requests)
-- ARGV[1]  JSON: op (take, give_back, answered, throttled) and what it needs
-- returns  JSON: wait (seconds; 0 when granted), state (the bucket, for the caller to remember)

local ask = cjson.decode(ARGV[1])
local bucket_key, unanswered_key, waiting_key, users_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000

-- Without a header nothing is known of what is left: as good as endless, and written as a number.
local UNKNOWN = 1000000000
local ROUNDED_SECONDS = 1 -- the vendor says whole seconds, perhaps rounded down

local state
local saved = redis.call('GET', bucket_key)
if saved then
  state = cjson.decode(saved)
else
  -- New, or lost by Redis. A caller that saw it before knows that it was in use, and hands back what it saw.
  state = ask.state or {}
  state.level = ask.state and 0 or ask.first_level
  state.at = now
  state.doubt = ask.doubt
end

-- After Redis moved to another machine its clock may be another: no wait may outlive its own bound.
state.closed_until = math.min(state.closed_until or 0, now + ask.closed_max_seconds)

local function nothing_is_known()
  state.doubt, state.left, state.top = ask.doubt, nil, nil
end

local pace = state.reduced or ask.pace
local elapsed = math.max(0, now - state.at)
state.level, state.at = math.min(pace.burst, state.level + elapsed * pace.rate), now

local function end_reduction()
  state.reduced = nil
  state.level = math.min(state.level, 1)
  redis.call('DEL', waiting_key, users_key) -- what these were told, they were told at the reduced pace
  pace = ask.pace
end

if state.reduced and now >= state.reduced.ends_at then
  end_reduction()
  nothing_is_known()
end
redis.call('ZREMRANGEBYSCORE', unanswered_key, '-inf', now)

-- When to come again, for a request that nothing is there for before `ready_at`. Every user has a line, and the lines
-- move at the same pace, so that users take turns however much each of them wants. They move a little faster than
-- tokens come: one that somebody left is taken by the next, and who is refused once more goes to the end of the line.
local function turn(user, ready_at)
  redis.call('ZREMRANGEBYSCORE', waiting_key, '-inf', now - ask.late_seconds)
  redis.call('ZREMRANGEBYSCORE', users_key, '-inf', now - ask.late_seconds)
  local end_of_line = tonumber(redis.call('ZSCORE', users_key, user) or 0)
  local users = redis.call('ZCARD', users_key) + (end_of_line > 0 and 0 or 1)
  local share = ask.turn_share / pace.rate
  -- A fraction that differs from every recent one by as much as can be: the golden ratio's multiples do.
  state.place = ((state.place or 0) + 0.618034) % 1

  local told = end_of_line > ready_at and end_of_line + users * share or ready_at + (users - 1) * share * state.place
  -- A line that was long while others waited too would stand still when they are gone. So nobody is told to come later
  -- than when all who wait now are served, nor much later at all; who would be is put somewhere within that time.
  local waiting = redis.call('ZCARD', waiting_key)
  local latest = math.min(waiting * share, math.max(ask.line_seconds, waiting / ask.asking_per_second))
  if told > ready_at + latest then
    told = ready_at + latest * state.place
  end
  redis.call('ZADD', waiting_key, told, ask.request)
  redis.call('ZADD', users_key, math.max(told, end_of_line), user)
  return told
end

local function take()
  -- A caller does one thing at a time: what it asked for before, it did not use.
  redis.call('ZREM', unanswered_key, ask.caller)
  redis.call('ZREM', waiting_key, ask.request)
  if now > (state.heard_at or 0) + ask.trust_seconds then
    nothing_is_known()
  end

  local ready_at = math.max(now, state.closed_until)
  local missing = 1 - state.level
  if missing > 0.000001 then
    ready_at = math.max(ready_at, now + missing / pace.rate)
  end
  local unanswered = redis.call('ZCARD', unanswered_key)
  local left = UNKNOWN
  if state.left then
    -- After the reset the vendor has at least as much as it had at its best, and perhaps no more.
    left = now < state.left_until and state.left or state.top + 1
  end
  if unanswered > 0 and (state.doubt > 0 or left - unanswered < 1) then
    ready_at = math.max(ready_at, now + ask.answer_seconds)
  end

  if ready_at <= now then
    state.level = state.level - 1
    redis.call('ZADD', unanswered_key, now + ask.unanswered_seconds, ask.caller)
    return 0
  end
  return math.max(turn(ask.user, ready_at) - now, ask.wait_min_seconds)
end

local function answered()
  state.heard_at = now
  if redis.call('ZREM', unanswered_key, ask.caller) == 0 then
    state.level = state.level - 1 -- sent without asking, as the second page of a list is: paid for afterwards
  end
  if ask.left == nil then
    state.doubt = math.max(0, state.doubt - 1)
    return
  end
  state.doubt = 0
  state.left, state.left_until = ask.left, now + ask.reset_seconds + ROUNDED_SECONDS
  state.top = math.max(state.top or 0, ask.left)
  if ask.left < 1 then
    state.closed_until = math.max(state.closed_until, state.left_until)
  end
  local reduced = state.reduced
  if reduced and not reduced.headers_differ then
    if ask.left >= reduced.stated_burst then
      end_reduction() -- more is left than the reduced rate could leave
    else
      reduced.ends_at = now + ask.reduced_seconds
    end
  end
end

local function throttled()
  state.level = math.min(state.level, 0)
  state.closed_until = math.max(state.closed_until, now + ask.after_seconds)
  if ask.reduced then
    state.reduced = ask.reduced
    state.reduced.ends_at = now + ask.reduced_seconds
    -- Headers that saw room where there was none speak of another limit: they must not end the reduction.
    state.reduced.headers_differ = (state.left or UNKNOWN) >= ask.reduced.stated_burst
  end
end

local function give_back()
  if redis.call('ZREM', unanswered_key, ask.caller) == 1 then
    state.level = math.min(pace.burst, state.level + 1)
  end
end

local operations = { take = take, answered = answered, throttled = throttled, give_back = give_back }
local wait = operations[ask.op]() or 0
local kept = cjson.encode(state)
redis.call('SET', bucket_key, kept, 'EX', ask.bucket_ttl_seconds)
for _, key in ipairs({ unanswered_key, waiting_key, users_key }) do
  redis.call('EXPIRE', key, ask.line_ttl_seconds)
end
return cjson.encode({ wait = wait, closed_seconds = math.max(0, state.closed_until - now), state = state })
