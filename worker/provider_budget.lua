-- One question to, or one piece of news for, the bucket of one kind of request. Redis runs it as one step, and its
-- own clock is the only one: those of the workers do not matter. What the numbers mean stands in provider_budget.py.
--
-- KEYS     bucket (JSON), unanswered (sorted set: caller -> when its grant is forgotten),
--          told (sorted set: request -> when to come again), turns (sorted set: request -> its turn),
--          users (sorted set: user -> how far the turns of the user's requests go)
-- ARGV[1]  JSON: op (take, give_back, answered, throttled) and what it needs
-- returns  JSON: wait (seconds; 0 when granted), state (the bucket, for the caller to remember)

local ask = cjson.decode(ARGV[1])
local bucket_key, unanswered_key, told_key, turns_key, users_key = unpack(KEYS)
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
  pace = ask.pace
end

if state.reduced and now >= state.reduced.ends_at then
  end_reduction()
  nothing_is_known()
end
redis.call('ZREMRANGEBYSCORE', unanswered_key, '-inf', now)

-- A request keeps its turn, a moment, for as long as it waits: that at which it came, for the photos of a user's first job
-- and one retry. Every further one is set back behind the last by its share of what waits: so the jobs of different users
-- are served in the order in which they came, and those of one user let others go first. Nobody stands further back than
-- two rounds of what waits now, whatever was when it came: a longer line, or a clock that went back.
local function take_turn()
  local round = (redis.call('ZCARD', turns_key) + ask.job_requests) / pace.rate
  local turn = tonumber(redis.call('ZSCORE', turns_key, ask.request))
  if not turn then
    local step = round / ask.job_requests
    local last = tonumber(redis.call('ZSCORE', users_key, ask.user) or 0)
    last = math.min(math.max(last, now - round - step) + step, now + 2 * round)
    redis.call('ZADD', users_key, last, ask.user)
    turn = math.max(now, last)
  end
  redis.call('ZADD', turns_key, math.min(turn, now + 2 * round), ask.request)
  return redis.call('ZRANK', turns_key, ask.request)
end

local function forget_the_gone()
  for _, request in ipairs(redis.call('ZRANGEBYSCORE', told_key, '-inf', now - ask.gone_seconds)) do
    redis.call('ZREM', told_key, request)
    redis.call('ZREM', turns_key, request)
  end
  redis.call('ZREMRANGEBYSCORE', users_key, '-inf', now - ask.line_ttl_seconds)
end

-- How many tokens are kept for earlier turns: for those who were told to come about now. An empty bucket is full again
-- after `burst / rate`, so a token that is kept for longer would be lost.
local function kept_for_others(rank)
  local kept, kept_seconds = 0, math.min(pace.burst / pace.rate, ask.kept_seconds)
  local before = math.min(rank, pace.burst)
  for _, other in ipairs(before > 0 and redis.call('ZRANGE', turns_key, 0, before - 1) or {}) do
    local told = tonumber(redis.call('ZSCORE', told_key, other))
    if told and told <= now and told >= now - kept_seconds then
      kept = kept + 1
    end
  end
  return kept
end

-- When to come again: when those before have been served, and a little sooner, because some of them do not come. Far back
-- in the line that is a guess, and those in front may vanish: there one comes to ask, at a moment of one's own.
local function time_to_come(rank, ready_at)
  local late = redis.call('ZCOUNT', told_key, '-inf', now - ask.kept_seconds) -- and perhaps gone
  local turn_in = math.max(0, rank - late) * ask.turn_share / pace.rate
  local latest = math.max(ask.line_seconds, redis.call('ZCARD', turns_key) / ask.asking_per_second)
  if turn_in > latest then
    -- The golden ratio's multiples: each lies as far from the latest ones as can be.
    state.place = ((state.place or 0) + 0.618034) % 1
    turn_in = latest * (1 + state.place) / 2
  end
  return ready_at + turn_in
end

local function take()
  -- A caller does one thing at a time: what it asked for before, it did not use.
  redis.call('ZREM', unanswered_key, ask.caller)
  if now > (state.heard_at or 0) + ask.trust_seconds then
    nothing_is_known()
  end
  forget_the_gone()
  redis.call('ZREM', told_key, ask.request)
  local rank = take_turn()

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

  if ready_at <= now and state.level >= 1 + kept_for_others(rank) - 0.000001 then
    state.level = state.level - 1
    redis.call('ZREM', turns_key, ask.request)
    redis.call('ZADD', unanswered_key, now + ask.unanswered_seconds, ask.caller)
    return 0
  end
  local told = time_to_come(rank, ready_at)
  redis.call('ZADD', told_key, told, ask.request)
  return math.max(told - now, ask.wait_min_seconds)
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
for _, key in ipairs({ unanswered_key, told_key, turns_key, users_key }) do
  redis.call('EXPIRE', key, ask.line_ttl_seconds)
end
return cjson.encode({ wait = wait, closed_seconds = math.max(0, state.closed_until - now), state = state })
