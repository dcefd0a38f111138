package refresher

import (
	"context"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// wait is the way of those who find no valid token.
func (r *Refresher) wait(ctx context.Context) (*tokensource.Token, error) {
	for arrived := -1; ; {
		r.mu.Lock()
		if arrived < 0 {
			arrived = r.looks
		}
		if t := r.Current(); t != nil {
			r.mu.Unlock()
			return t, nil
		}
		if r.ended {
			r.mu.Unlock()
			return nil, &Unavailable{Cause: errEnded}
		}
		done := r.lookForChange()
		refused := r.backingOff()
		var f *flight
		switch {
		case done != nil:
		case refused == nil:
			f = r.fly()
		case r.needsPerson() && r.looked > arrived: // since we came
			r.mu.Unlock()
			return nil, refused
		default:
			if f = r.peek(); f == nil {
				f = r.flight // a look as well
			}
			if f == nil {
				pause, short := r.lookPause()
				if !short {
					pause, short = r.shortPause()
				}
				r.mu.Unlock()
				if short && sleep(ctx, pause) {
					continue
				}
				return nil, refused
			}
		}
		if f != nil {
			done = f.done
		}
		r.mu.Unlock()

		select {
		case <-done:
			if f != nil && f.token != nil {
				return f.token, nil
			}
		case <-ctx.Done():
			return nil, &Unavailable{Waited: true, Ended: context.Cause(ctx)}
		}
	}
}

// longestWaited is the longest pause between token requests that callers wait
// for, where tokens live no longer than that: such pauses are short in the
// beginning.
const longestWaited = 5 * time.Second

// sleep waits until the context ends, or returns true.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// peekEvery is how often the storage is looked at for what another node has
// obtained, while this one may not ask itself, and grantEvery for what a person
// has authorized there: callers wait for that look. peekAgain is how soon after
// it did not answer.
const (
	peekEvery  = time.Second
	grantEvery = 100 * time.Millisecond
	peekAgain  = time.Minute
)

// peek begins a look at the storage, where a token is wanted that may not be
// asked for. It returns nil where that has just been done. The caller holds mu.
func (r *Refresher) peek() *flight {
	e := r.environment()
	if e == nil || e.store == nil || r.flight != nil || r.ended || r.now().Before(r.peekAt) {
		return nil
	}
	r.peekAt = r.now().Add(peekEvery)
	if r.needsPerson() {
		r.peekAt = r.now().Add(grantEvery)
	}
	r.looks++
	f := &flight{done: make(chan struct{}), look: true, number: r.looks, due: r.due}
	r.stopTimer()
	r.flight = f
	r.launch()
	return f
}

// lookPause returns how long it is until the storage is looked at again for what a
// person has authorized on another node. The caller holds mu.
func (r *Refresher) lookPause() (pause time.Duration, short bool) {
	if !r.needsPerson() {
		return 0, false
	}
	e := r.environment()
	pause = untilEither(r.peekAt, r.now())
	return pause, pause <= grantEvery && e != nil && e.store != nil
}

// backingOff returns why no token request is made now, or nil. The caller
// holds mu.
func (r *Refresher) backingOff() *Unavailable {
	if r.failure == nil || r.flight != nil && !r.flight.look {
		return nil
	}
	if r.failure.Permanent {
		return &Unavailable{Cause: r.failure, Permanent: true}
	}
	if wait := untilEither(r.retryAt, r.now()); wait > 0 {
		return &Unavailable{Cause: r.failure, RetryAfter: wait}
	}
	return nil
}

// Unavailable says why there is no token.
type Unavailable struct {
	// Cause is what the last token request came to; nil where none has ended.
	Cause *tokensource.Error

	// Permanent is true where nothing will be tried until an operator has
	// changed something.
	Permanent bool

	// RetryAfter is how long no token request will be made; 0: not known.
	RetryAfter time.Duration

	// Waited is true where the caller's own time ran out first.
	Waited bool

	// Ended is the cause of its context's end then.
	Ended error
}

func (u *Unavailable) Error() string {
	switch {
	case u.Cause != nil:
		return "no token: " + u.Cause.Error()
	case u.Waited:
		return "no token: the provider did not answer in time"
	}
	return "no token"
}

// Unwrap returns the Cause.
func (u *Unavailable) Unwrap() error {
	if u.Cause == nil {
		return nil
	}
	return u.Cause
}
