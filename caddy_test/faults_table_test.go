package caddy_test

import (
	"net/http"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/faultstorage"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// What sources log.
const (
	present   = "token not renewed, the present one is served"
	noTokenIs = "no token"
	ended     = "the token has ended, and there is no other"
	anew      = "to begin anew, configure a new refresh token and remove that entry"
	busy      = "another node has not ended its renewal"
	unsafe    = "the storage fails, so that a refresh token might be spent twice"
	unstored  = "the token could not be stored; it is kept in memory and storing is tried again"
)

// passing is what comes of a provider that fails for a reason that passes.
func passing(reason string) []row {
	return []row{{plainGrant, [3]cell{
		valid:   served().asksAgain().logs("warn", present, reason),
		expired: failed(http.StatusServiceUnavailable).asksAgain().logs("error", noTokenIs, reason),
		none:    failed(http.StatusServiceUnavailable).asksAgain().logs("error", noTokenIs, reason),
	}}}
}

// waiting makes callers wait who have no valid token.
func waiting(rows []row, until string, atMost time.Duration) []row {
	for i := range rows {
		for _, h := range []holding{expired, none} {
			rows[i].cells[h] = rows[i].cells[h].after(until, atMost)
		}
	}
	return rows
}

var (
	aTokenRequest = "a token request"
	aNewToken     = "a new token"
	theLock       = "the lock"
	theIntent     = "the outcome of the killed process's renewal"
)

// faultTable is what happens when something fails. The test of it drives each
// cell, and docs/failures.md is made of it.
var faultTable = []fault{
	{
		section: ofProvider, word: "refused", title: "refuses connections",
		about:  "Nobody listens at `token_url`.",
		strike: func(tr *trial) { tr.front.Close() }, lift: func(tr *trial) { tr.front.Open() },
		rows: passing("HOST: connection refused"),
	},
	{
		section: ofProvider, word: "reset", title: "resets connections",
		about:  "It reads the token request and resets the connection.",
		strike: func(tr *trial) { tr.front.Reset() }, lift: func(tr *trial) { tr.front.Open() },
		rows: passing("HOST: the connection was closed before an answer came"),
	},
	{
		section: ofProvider, word: "hangs", title: "hangs",
		about:   "It reads the token request and never answers. `timeout` is 2 s here.",
		options: "timeout 2s",
		lives:   15 * time.Second, // callers wait for pauses that are short because tokens live for seconds
		strike:  intercepts(hang), lift: works,
		rows: waiting(passing("HOST: no complete answer in time"), "`timeout`", 2*time.Second),
	},
	{
		section: ofProvider, word: "slow", title: "is slow",
		about:  "It answers after 1.5 s.",
		strike: intercepts(slowly(1500 * time.Millisecond)), lift: works,
		rows: []row{{plainGrant, [3]cell{
			valid:   served().asks(1).logs("info", "token renewed", ""),
			expired: served().after(aTokenRequest, 1500*time.Millisecond).asks(1).logs("info", "token renewed", ""),
			none:    served().after(aTokenRequest, 1500*time.Millisecond).asks(1).logs("info", "token obtained", ""),
		}}},
	},
	{
		section: ofProvider, word: "500", title: "answers 500",
		about:  "It answers with status 500 and no body.",
		strike: intercepts(provider.Fail(500, "")), lift: works,
		rows: passing("the answer is empty, HTTP status 500"),
	},
	{
		section: ofProvider, word: "429", title: "answers 429",
		about:  "It answers with status 429 and `Retry-After: 3`, which is respected.",
		strike: intercepts(say(429, http.Header{"Retry-After": {"3"}}, `{"error":"slow_down"}`)), lift: works,
		rows: passing("HTTP status 429, slow_down"),
	},
	{
		section: ofProvider, word: "invalid_grant", title: "answers `invalid_grant`",
		about:  "It rejects the grant itself, for good: it is not asked again until a secret or the configuration changes.",
		lives:  6 * time.Second,
		strike: intercepts(provider.Fail(400, "invalid_grant")),
		rows: []row{{plainGrant, [3]cell{
			valid:   served().asks(1).logs("warn", present, "HTTP status 400, invalid_grant"),
			expired: failed(http.StatusBadGateway).asks(1).logs("warn", present, "HTTP status 400, invalid_grant").logs("error", ended, "HTTP status 400, invalid_grant"),
			none:    failed(http.StatusBadGateway).asks(1).logs("error", noTokenIs, "HTTP status 400, invalid_grant"),
		}}},
	},
	{
		section: ofProvider, word: "garbage", title: "answers with something else",
		about:  "It answers with an HTML page and status 200.",
		strike: intercepts(say(200, nil, "<html><body>Please log in</body></html>")), lift: works,
		rows: passing("the answer is HTML, not JSON, HTTP status 200"),
	},
	{
		section: ofProvider, word: "redirect", title: "redirects",
		about:  "It answers with status 302. A token request is not sent elsewhere.",
		strike: intercepts(say(302, http.Header{"Location": {"https://elsewhere.example.org/token"}}, "")), lift: works,
		rows: passing("a redirect to elsewhere.example.org, which is not followed; write the final URL as token_url, HTTP status 302"),
	},

	{
		section: ofStorage, word: "full", title: "is full",
		about:  "Nothing can be written, neither records nor locks: no space left on device.",
		held:   true,
		strike: stores(faultstorage.Full), lift: storesAgain,
		rows: withoutStorage(aTokenRequest, 2*time.Second),
	},
	{
		section: ofStorage, word: "readonly", title: "is read-only",
		about:  "Nothing can be changed: read-only file system.",
		held:   true,
		strike: stores(faultstorage.ReadOnly), lift: storesAgain,
		rows: withoutStorage(aTokenRequest, 2*time.Second),
	},
	{
		section: ofStorage, word: "deadlock", title: "has the lock of a dead process",
		about:  "Another process was killed a moment ago while it held the source's lock.",
		strike: func(tr *trial) { tr.control.Set(tr.name, tr.control.DeadLock()) }, lift: storesAgain,
		rows: lockLeft(),
	},
	{
		section: ofStorage, word: "hanging", title: "hangs",
		about: "No operation of the storage ends.",
		held:  true,
		strike: func(tr *trial) {
			tr.release = make(chan struct{})
			tr.control.Set(tr.name, faultstorage.Hang(tr.release))
		},
		lift: func(tr *trial) {
			close(tr.release)
			tr.control.Set(tr.name, nil)
		},
		rows: hanging(withoutStorage("the storage and a token request", 4*time.Second)),
	},
	{
		section: ofStorage, word: "unreadable", title: "returns garbage",
		about:  "What is read where the token should be is no record. It is kept as `unreadable.json` where a new token can be had without a person.",
		held:   true,
		lives:  6 * time.Second,
		strike: stores(faultstorage.Garbage("\x00\xffgarbage{")), lift: storesAgain,
		rows: []row{
			{plainGrant, setAside()},
			{rotatingGrant, setAside()},
			{refreshGrant, [3]cell{
				valid:   served().asks(0).logs("warn", present, anew),
				expired: failed(http.StatusBadGateway).asks(0).logs("error", ended, anew),
				none:    failed(http.StatusBadGateway).asks(0).logs("error", noTokenIs, anew),
			}},
		},
	},

	{
		section: ofUpstream, word: "always401", title: "answers 401 to everything",
		about:  "The next token request for such a reason comes after 5 s, then after 10 s, and so on up to 10 min.",
		held:   true,
		strike: func(tr *trial) { tr.api.refuse(-1) },
		rows: []row{{plainGrant, [3]cell{
			valid:   refusedBy().after(aNewToken, 2*time.Second).asks(1).sends(2).logs("info", "token renewed", ""),
			expired: refusedBy().after(aNewToken, 2*time.Second).asks(2).sends(2).logs("info", "token renewed", ""),
			none:    refusedBy().after(aNewToken, 2*time.Second).asks(2).sends(2).logs("info", "token renewed", ""),
		}}},
	},
	{
		section: ofUpstream, word: "once401", title: "answers 401 once",
		about:  "It has revoked the token.",
		held:   true,
		strike: func(tr *trial) { tr.api.refuse(1) },
		rows: []row{{plainGrant, [3]cell{
			valid:   served().replayed().after(aNewToken, 2*time.Second).asks(1).sends(2).logs("info", "token renewed", ""),
			expired: served().replayed().after(aNewToken, 2*time.Second).asks(2).sends(2).logs("info", "token renewed", ""),
			none:    served().replayed().after(aNewToken, 2*time.Second).asks(2).sends(2).logs("info", "token renewed", ""),
		}}},
	},
	{
		section: ofUpstream, word: "half401", title: "answers 401 on half of its nodes",
		about:  "Of two upstreams one refuses everything. Its refusals cause no more token requests than those of an API that refuses everything.",
		held:   true,
		strike: func(tr *trial) { tr.api.refuseOnSecondNode() },
		rows: []row{{plainGrant, [3]cell{
			valid:   half().asks(1).logs("info", "token renewed", ""),
			expired: half().asks(2).logs("info", "token renewed", ""),
			none:    half().asks(2).logs("info", "token renewed", ""),
		}}},
	},
	{
		section: ofUpstream, word: "reading", title: "resets the connection after half of the body",
		about:  "The request may have had its effect, so it is not sent again.",
		held:   true,
		body:   32 << 10,
		strike: func(tr *trial) { tr.api.resetHalfway(16 << 10) },
		rows: []row{{plainGrant, [3]cell{
			valid:   broken().asks(0),
			expired: broken().after(aTokenRequest, 2*time.Second).asks(1),
			none:    broken().after(aTokenRequest, 2*time.Second).asks(1),
		}}},
	},

	{
		section: ofProcess, word: "unlocked", title: "before it has the lock",
		about: "Nothing is spent, and nothing is left behind.",
		at:    beforeLock,
		rows: []row{
			{plainGrant, restarted(aTokenRequest, 2*time.Second, "client_credentials")},
			{rotatingGrant, restartedWith(restarted(aTokenRequest, 2*time.Second, "refresh_token"), none, served().after(aTokenRequest, 2*time.Second).asksBy(1, "client_credentials"))},
			{refreshGrant, restarted(aTokenRequest, 2*time.Second, "refresh_token")},
		},
	},
	{
		section: ofProcess, word: "locked", title: "with the lock",
		about: "The lock is left behind. Nobody waits for a lock longer than 2 s: what must not happen twice is safe without it.",
		at:    withLock,
		rows:  lockLeft(),
	},
	{
		section: ofProcess, word: "intent", title: "with its intent stored",
		about: "It was about to send the refresh token, and has not.",
		at:    intentStored,
		rows:  intentAlone(),
	},
	{
		section: ofProcess, word: "sent", title: "with the token request sent",
		about: "The provider has read it and not done anything yet.",
		at:    requestSent,
		rows:  intentLeft(),
	},
	{
		section: ofProcess, word: "answered", title: "with the answer and before it is stored",
		about: "A refresh token is spent then, and its successor lost: no client can prevent that. " +
			"Where the grant begins with a refresh token, a person must authorize again.",
		at:   answerThere,
		rows: answerLost(),
	},
	{
		section: ofProcess, word: "stored", title: "with the new token stored and the lock not given back",
		about: "The new token is there.",
		at:    tokenStored,
		rows: []row{
			{plainGrant, [3]cell{served().asks(0), served().asks(0), served().asks(0)}},
			{rotatingGrant, [3]cell{served().asks(0), served().asks(0), served().asks(0)}},
			{refreshGrant, [3]cell{served().asks(0), served().asks(0), served().asks(0)}},
		},
	},
}

func half() cell {
	c := served().after(aNewToken, 2*time.Second)
	c.other = http.StatusUnauthorized
	return c
}

func broken() cell {
	return cell{status: http.StatusBadGateway, outcome: "injected", silent: true}.sends(1)
}

// stores is a strike of the storage.
func stores(rule faultstorage.Rule) func(*trial) {
	return func(tr *trial) { tr.control.Set(tr.name, rule) }
}

func storesAgain(tr *trial) { tr.control.Set(tr.name, nil) }

// withoutStorage is what comes of a storage that takes nothing: serving goes on
// from memory. Only a refresh token that is all there is waits for the storage,
// which other nodes may have.
func withoutStorage(until string, atMost time.Duration) []row {
	cells := [3]cell{
		valid:   served().asksBy(1, "client_credentials").logs("warn", unstored, "").logs("info", "token renewed", ""),
		expired: served().after(until, atMost).asksBy(1, "client_credentials").logs("warn", unstored, ""),
		none:    served().after(until, atMost).asksBy(1, "client_credentials").logs("warn", unstored, ""),
	}
	return []row{
		{plainGrant, cells},
		{rotatingGrant, cells},
		{refreshGrant, [3]cell{
			valid:   served().asks(0).logs("warn", present, unsafe),
			expired: failed(http.StatusServiceUnavailable).asks(0).logs("error", noTokenIs, unsafe),
			none:    failed(http.StatusServiceUnavailable).asks(0).logs("error", noTokenIs, unsafe),
		}},
	}
}

// setAside is what comes of a record that cannot be read, where no person is
// needed. What was there may have been newer than the refresh token in memory.
func setAside() [3]cell {
	const aside = "what is stored of this source cannot be read; it is set aside"
	return [3]cell{
		valid:   served().asksBy(1, "client_credentials").logs("warn", aside, "").logs("info", "token renewed", ""),
		expired: served().after(aTokenRequest, 2*time.Second).asksBy(1, "client_credentials").logs("warn", aside, ""),
		none:    served().after(aTokenRequest, 2*time.Second).asksBy(1, "client_credentials").logs("warn", aside, ""),
	}
}

// hanging is withoutStorage where it takes time to see that.
func hanging(rows []row) []row {
	for _, h := range []holding{expired, none} {
		rows[2].cells[h] = rows[2].cells[h].after("the storage", 2*time.Second)
	}
	return rows
}

// restarted is what comes of a Caddy that starts again after it was killed.
func restarted(until string, atMost time.Duration, by string) [3]cell {
	return [3]cell{
		valid:   served().asksBy(1, by).logs("info", "token renewed", ""),
		expired: served().after(until, atMost).asksBy(1, by),
		none:    served().after(until, atMost).asksBy(1, by),
	}
}

func restartedWith(cells [3]cell, h holding, c cell) [3]cell {
	cells[h] = c
	return cells
}

// lockLeft is what comes of a lock that nobody gives back.
func lockLeft() []row {
	return []row{
		{plainGrant, restarted(theLock, 2*time.Second, "client_credentials")},
		{rotatingGrant, restartedWith(restarted(theLock, 2*time.Second, "refresh_token"), none,
			served().after(theLock, 2*time.Second).asksBy(1, "client_credentials"))},
		{refreshGrant, restarted(theLock, 2*time.Second, "refresh_token")},
	}
}

// intentLeft is lockLeft where the storage also says that somebody may have
// spent the refresh token: who has a valid token waits for what comes of that,
// and who has another grant uses that one.
func intentLeft() []row {
	rows := lockLeft()
	rows[1].cells[valid] = served().asksBy(1, "client_credentials").logs("info", "token renewed", "")
	rows[1].cells[expired] = served().after(theIntent, 4*time.Second).asksBy(1, "client_credentials")
	rows[2].cells[valid] = served().asks(0).logs("warn", present, busy)
	for _, h := range []holding{expired, none} {
		rows[2].cells[h] = served().after(theIntent, 11*time.Second).asksBy(1, "refresh_token")
	}
	return rows
}

// intentAlone is intentLeft for those who have an intent.
func intentAlone() []row {
	rows := intentLeft()
	nothing := "This grant spends nothing, so there is no intent."
	rows[0].cells = [3]cell{absent(nothing), absent(nothing), absent(nothing)}
	rows[1].cells[none] = absent("There is no refresh token yet, so there is no intent.")
	return rows
}

// answerLost is intentLeft where the refresh token was spent indeed.
func answerLost() []row {
	rows := intentLeft()
	for _, h := range []holding{expired, none} {
		rows[2].cells[h] = failed(http.StatusBadGateway).after(theIntent, 11*time.Second).asksBy(1, "refresh_token").spendsTwice(1).
			logs("error", noTokenIs, "invalid_grant")
	}
	return rows
}
