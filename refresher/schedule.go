package refresher

import (
	"math/rand/v2"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

const (
	// Backoff after failures, before chance: firstRetry, doubled each time, up
	// to lastRetry. With chance, from 1 s to 60 s.
	firstRetry = 1250 * time.Millisecond
	lastRetry  = 50 * time.Second

	// soonestRenewal is the least time between renewals in the background, for
	// a provider that gives its tokens next to no time at all.
	soonestRenewal = 500 * time.Millisecond

	// maxSleep is the longest that a timer is set. Timers do not count the
	// time a machine sleeps; the wall clock does.
	maxSleep = 5 * time.Minute
)

func random() float64 { return rand.Float64() } //nolint:gosec // spreads load, hides nothing

// alive says whether a token can be sent. It has ended when either clock says
// so: the wall clock knows of a machine that slept, the monotonic one of a
// wall clock that was set back.
func alive(t *tokensource.Token, now time.Time) bool {
	return t.Lifetime == 0 ||
		now.Sub(t.Issued) < t.Lifetime && now.Round(0).Sub(t.Issued.Round(0)) < t.Lifetime
}

// untilEither returns how long it is until due by the clock that is ahead.
func untilEither(due, now time.Time) time.Duration {
	return min(due.Sub(now), due.Round(0).Sub(now.Round(0)))
}

// renewAfter returns when a token is to be renewed, counted from its issue: at
// its share of the lifetime, less a random tenth so that a fleet does not
// march in step, and less what the last token request took, so that the new
// token is there by then.
func renewAfter(lifetime time.Duration, share float64, took time.Duration, random float64) time.Duration {
	at := time.Duration(float64(lifetime) * share * (1 - random/10))
	return max(at-min(took, lifetime/5), at/2, soonestRenewal)
}

// retryAfter returns the pause after that many failures in a row. What the
// provider asks for wins, a little spread. A token that lives a few seconds
// has no time for pauses of one: its first is a tenth of its lifetime.
func retryAfter(failures int, wanted, lifetime time.Duration, random float64) time.Duration {
	if wanted > 0 {
		wanted = max(wanted, time.Second)
		return wanted + time.Duration(float64(min(wanted, lastRetry))*random/10)
	}
	pause := firstRetry
	if lifetime > 0 {
		pause = min(pause, lifetime/10)
	}
	for range failures - 1 {
		pause = min(2*pause, lastRetry)
	}
	return time.Duration(float64(pause) * (0.8 + 0.4*random))
}
