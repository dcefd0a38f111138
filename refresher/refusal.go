package refresher

import (
	"context"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

const (
	// Pauses between token requests that refusals cause, while they do not
	// cure them.
	firstRefusalPause = 5 * time.Second
	lastRefusalPause  = 10 * time.Minute

	// curedFor is how long no refusal comes until the last token request counts
	// as a cure, where nobody has said that it was one.
	curedFor = 30 * time.Second

	// curedAgain is how many refusals in a row may cause a token request at once,
	// after such as were cured, and creditAfter how soon there is one more. An
	// upstream of which a part refuses everything cures each second one.
	curedAgain  = 3
	creditAfter = 20 * time.Second
)

// refusals decides whether an upstream's refusal may cause a token request.
// Where a fresh token is refused as well, the token was not to blame: an
// upstream that refuses everything, or a caller who provokes refusals, must
// not become a storm at the provider.
type refusals struct {
	pause time.Duration // after the last token request
	until time.Time     // none before
	last  time.Time     // when the last refusal came
	cured bool          // whether the last token request helped who caused it
	spent [curedAgain]time.Time
}

// allow says whether a refusal may cause a token request. Where refusals have
// stayed away for longer than the last pause, that was a cure; and where nobody
// has seen that it was, for half a minute. Old is true of a token that would have
// been renewed soon anyway.
func (f *refusals) allow(now time.Time, old bool) bool {
	quiet := now.Sub(f.last)
	f.last = now
	if now.Before(f.until) {
		return f.cured && (old || f.credit(now))
	}
	if f.cured && quiet > f.pause || quiet > max(2*f.pause, curedFor) {
		f.pause = 0
	}
	return true
}

// credit takes one, if there is any.
func (f *refusals) credit(now time.Time) bool {
	for i, at := range f.spent {
		if now.Sub(at) > creditAfter*time.Duration(len(f.spent)) {
			f.spent[i] = now
			return true
		}
	}
	return false
}

// asked reckons with a token request that a refusal has caused.
func (f *refusals) asked(now time.Time) {
	if !now.Before(f.until) {
		f.pause = min(max(firstRefusalPause, 2*f.pause), lastRefusalPause)
		f.until = now.Add(f.pause)
	}
	f.cured = false
}

// Report says that an upstream refused this token. If it is the current one it
// becomes suspect, and a new one is obtained in the background, once for all
// who report it. It stays in use meanwhile, and also where no other can be had
// for a passing reason: one caller's refusal must not take the source from all
// others. It returns whether this report is the cause of a token request.
func (r *Refresher) Report(token *tokensource.Token) (caused bool) {
	if token == nil || !r.isCurrent(token) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.isCurrent(token) || r.ended {
		return false
	}
	if r.flight != nil {
		r.suspect = true
		return false
	}
	if backoff := r.backingOff(); backoff != nil {
		r.suspect = true // for when the next token request ends
		if isDead(r.failure) && r.lookForChange() == nil {
			r.current.Store(nil)
		}
		r.peek()
		return false
	}
	old := token.Lifetime > 0 && r.now().Sub(r.landedAt) > token.Lifetime/2
	if !r.refusals.allow(r.now(), old) {
		r.peek()
		return false
	}
	r.suspect = true
	f := r.fly()
	f.refused = true
	// Where refusals come again and again, it is not the token.
	r.doubtful.Store(r.refusals.pause == 0)
	return true
}

func (r *Refresher) isCurrent(token *tokensource.Token) bool {
	current := r.current.Load()
	return current != nil && current.AccessToken == token.AccessToken
}

// Replacement waits for the token that takes the place of one that was
// reported, and returns nil where there will be none soon. Fresh is true where
// that one was obtained since the refusal; another may have been refused as well.
func (r *Refresher) Replacement(ctx context.Context, refused *tokensource.Token) (replacement *tokensource.Token, fresh bool) {
	var f *flight
	for again := false; ; again = true {
		if t := r.Current(); t != nil && t.AccessToken != refused.AccessToken {
			return t, fresh && t == f.token && !f.adopted
		}
		r.mu.Lock()
		f = r.flight
		fresh = f != nil && (again || f.refused)
		pause, short := r.shortPause()
		ended := r.ended
		if f == nil && short && pause <= 0 && !ended {
			f, fresh = r.fly(), true
		}
		r.mu.Unlock()
		switch {
		case f != nil:
			select {
			case <-f.done:
			case <-ctx.Done():
				return nil, false
			}
		case short && !ended:
			if !sleep(ctx, pause) {
				return nil, false
			}
		default:
			return nil, false
		}
	}
}

// shortPause returns how long it is until the next try, where the last one failed
// and callers wait for the next. The caller holds mu.
func (r *Refresher) shortPause() (pause time.Duration, short bool) {
	if r.failure == nil || r.failure.Permanent || !r.waitedFor {
		return 0, false
	}
	return untilEither(r.retryAt, r.now()), true
}

// Cured says that the token request which a refusal has caused was of use: the
// upstream takes the new token.
func (r *Refresher) Cured() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusals.cured = true
}

// Suspect says whether an upstream has refused the current token for the first
// time in a while, and another is on its way.
func (r *Refresher) Suspect() bool { return r.doubtful.Load() }

// Unsuspected is Token for a request that cannot be sent twice: where an
// upstream has refused the current token, it waits for the next. Where that
// does not come, the current one may still be good.
func (r *Refresher) Unsuspected(ctx context.Context) (*tokensource.Token, error) {
	r.mu.Lock()
	f := r.flight
	r.mu.Unlock()
	if f != nil && r.Suspect() {
		select {
		case <-f.done:
		case <-ctx.Done():
		}
	}
	return r.Token(ctx)
}
