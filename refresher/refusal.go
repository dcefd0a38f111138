package refresher

import (
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

const (
	// Pauses between token requests that refusals cause, while they do not
	// cure them.
	firstRefusalPause = 5 * time.Second
	lastRefusalPause  = 10 * time.Minute

	// curedFor is the least age at which a token that is refused counts as one
	// that was not refused from the beginning.
	curedFor = 30 * time.Second
)

// refusals decides whether an upstream's refusal may cause a token request.
// Where a fresh token is refused as well, the token was not to blame: an
// upstream that refuses everything, or a caller who provokes refusals, must
// not become a storm at the provider.
type refusals struct {
	pause time.Duration // after the next one
	until time.Time     // none before
}

// allow says whether the refusal of a token of this age may cause a token
// request, and reckons with one if so. A token that was good for half a minute,
// and for twice the last pause, was a cure for the refusals before it.
func (f *refusals) allow(now time.Time, age time.Duration) bool {
	if now.Before(f.until) {
		return false
	}
	if age > max(2*f.pause, curedFor) {
		f.pause = 0
	}
	f.pause = min(max(firstRefusalPause, 2*f.pause), lastRefusalPause)
	f.until = now.Add(f.pause)
	return true
}

// Report says that an upstream refused this token. If it is the current one it
// becomes suspect, and a new one is obtained in the background, once for all
// who report it. It stays in use meanwhile, and also where no other can be had
// for a passing reason: one caller's refusal must not take the source from all
// others.
func (r *Refresher) Report(token *tokensource.Token) {
	if token == nil || r.current.Load() != token {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.Load() != token || r.ended {
		return
	}
	if r.flight != nil {
		r.suspect = true
		return
	}
	if backoff := r.backingOff(); backoff != nil {
		r.suspect = true // for when the next token request ends
		if isDead(r.failure) && r.lookForChange() == nil {
			r.current.Store(nil)
		}
		return
	}
	if r.refusals.allow(r.now(), r.now().Sub(r.landedAt)) {
		r.suspect = true
		r.fly()
	}
}
