// Package refresher keeps one token fresh.
//
// A [Refresher] asks its [Source] for a token before one is needed, renews it
// as a share of its lifetime, makes one token request however many callers
// wait, leaves a failing provider alone for longer and longer, and serves a
// valid token to its last second meanwhile.
//
// refresher.go is what callers see, flight.go the one renewal that may be under
// way, renewal.go how a token is obtained and stored so that no two nodes spend
// a refresh token twice, nodes.go how nodes see each other, detours.go what is
// done where they or the storage do not answer, keep.go how a token is stored
// later, authorize.go what comes from a person, watch.go how other nodes hear of
// that, status.go what operators see and do, store.go the storage, lineage.go what
// keeps refresh tokens in order within a process, schedule.go the arithmetic of
// time, and refusal.go what happens when an upstream does not take a token.
package refresher

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// Source obtains a token. Previous is the newest token that was obtained, or
// nil; its refresh token may be used. The context bounds the request. Errors
// are a *tokensource.Error.
type Source interface {
	Obtain(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error)
}

// Environment is what a refresher works with. It belongs to one configuration,
// whereas the refresher outlives it.
type Environment struct {
	Source Source
	Log    *zap.Logger

	// Store is where the token is kept for other processes; nil: nowhere.
	Store Store

	// Command is what an operator runs where a person must authorize the source.
	Command string

	store *patientStore // nil where Store is
}

// Options of a refresher. They are part of its identity: another value makes
// another refresher.
type Options struct {
	// RefreshAt is the share of its lifetime after which a token is renewed;
	// 0: DefaultRefreshAt.
	RefreshAt float64

	// Timeout bounds one call of the Source's Obtain, which may be two token
	// requests; 0: DefaultTimeout.
	Timeout time.Duration

	// Lineage is shared with other refreshers of the same grant, so that a
	// rotated refresh token is neither spent twice nor lost with the refresher
	// that obtained it; nil: it has one of its own.
	Lineage *Lineage

	// OneUse is true where nothing but a refresh token leads to another token: once
	// that is spent by mistake, only a person can help.
	OneUse bool

	// Person is true where it is by a person that the first one comes, with
	// Authorize.
	Person bool
}

// Defaults of Options.
const (
	DefaultRefreshAt = 0.8
	DefaultTimeout   = 20 * time.Second
)

// lookEvery is how often a source whose credentials were rejected is looked at
// for changed ones: a little less than ten seconds, so that a corrected file
// serves requests within ten.
const lookEvery = 9 * time.Second

// Refresher keeps the token of one source fresh. All methods are safe for
// concurrent use.
//
// It owns one timer and at most four goroutines: the flight, which ends with
// its renewal, a look for changed secrets, one that stores what could not be
// stored, and one that looks for what other nodes have stored. Close waits for the
// flight, and for those who call Authorize or Revoke.
type Refresher struct {
	options Options
	base    context.Context // of token requests; ends when Close has waited
	end     context.CancelFunc
	closed  chan struct{} // when Close begins

	// finishing is closed when no refresh token may be spent any more, nor a code.
	// To close it, mu is held.
	finishing chan struct{}
	finish    func()
	now       func() time.Time

	// current is what callers get; the only thing that the hot path reads.
	current atomic.Pointer[tokensource.Token]

	// doubtful is true while what is current has been refused and another is on
	// its way; only requests that cannot be sent twice read it.
	doubtful atomic.Bool

	mu           sync.Mutex // guards everything below
	environments []*Environment
	obtained     *tokensource.Token // the newest, also where it is not current
	landedAt     time.Time          // when it was
	version      version            // its own, in the storage; zero: not known
	grants       int                // how often a person has authorized or revoked it
	flight       *flight            // nil: none under way
	timer        *time.Timer
	due          time.Time // when the timer's work is; zero: nothing to do
	failures     int       // in a row
	failure      *tokensource.Error
	retryAt      time.Time // no token request before; only with a failure
	waitedFor    bool      // callers wait until then
	look         chan struct{}
	lookedAt     time.Time
	refusals     refusals
	suspect      bool      // the upstream refused current
	peekAt       time.Time // no peek before
	looks        int       // how many were begun
	looked       int       // the last one that has ended
	keeping      bool      // a goroutine stores the newest token
	watching     bool      // a goroutine looks for what other nodes store
	unsaved      bool      // the log says that a token could not be stored
	heldAt       time.Time // when the log has said why nobody is asked
	ended        bool

	authorizing sync.WaitGroup // calls of Authorize and Revoke; mu is held to add one, unless finishing
}

// New returns a refresher that does nothing until it is attached to an
// environment.
func New(options Options) *Refresher {
	if options.RefreshAt == 0 {
		options.RefreshAt = DefaultRefreshAt
	}
	if options.Timeout == 0 {
		options.Timeout = DefaultTimeout
	}
	if options.Lineage == nil {
		options.Lineage = NewLineage()
	}
	base, end := context.WithCancel(context.Background())
	finishing := make(chan struct{})
	return &Refresher{
		options: options, base: base, end: end, closed: make(chan struct{}),
		finishing: finishing, finish: sync.OnceFunc(func() { close(finishing) }), now: time.Now,
	}
}

// Attach gives the refresher an environment; it uses the newest one attached.
// With the first one it obtains a token in the background. The returned
// function takes the environment back, once.
func (r *Refresher) Attach(e *Environment) (detach func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Store != nil {
		e.store = newPatientStore(e.Store)
		r.options.Lineage.store.Store(e.store)
		r.watch()
	}
	r.environments = append(r.environments, e)
	switch {
	case r.flight != nil:
		r.launch()
	case r.current.Load() == nil && (r.failure == nil || r.failure.Permanent && r.failure.StatusCode == 0 && !r.failure.AuthorizationRequired):
		r.fly() // also where nobody was asked, for what was missing may be there
	case e.store != nil && r.obtained != nil: // perhaps another one than before
		r.keep()
	}
	return sync.OnceFunc(func() { r.detach(e) })
}

func (r *Refresher) detach(e *Environment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, attached := range r.environments {
		if attached == e {
			newest := i == len(r.environments)-1
			r.environments = append(r.environments[:i:i], r.environments[i+1:]...)
			if newest && i > 0 && r.obtained != nil { // a failed reload: back to the storage before
				r.keep()
			}
			return
		}
	}
}

// environment returns the newest one attached, or nil. The caller holds mu.
func (r *Refresher) environment() *Environment {
	if len(r.environments) == 0 {
		return nil
	}
	return r.environments[len(r.environments)-1]
}

// Token returns a valid token. Where there is one it returns at once; else it
// waits for one until the context ends. The error is an *Unavailable.
func (r *Refresher) Token(ctx context.Context) (*tokensource.Token, error) {
	if t := r.Current(); t != nil {
		return t, nil
	}
	return r.wait(ctx)
}

// Current returns the token if there is a valid one, else nil. It costs one
// atomic load and a look at the clock.
func (r *Refresher) Current() *tokensource.Token {
	if t := r.current.Load(); t != nil && alive(t, r.now()) {
		return t
	}
	return nil
}

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

// Finish is for the end of a configuration, while its storage can still be used:
// a token request that is under way is waited for, up to grace, and what could
// not be stored is stored if it can be. No refresh token is spent any more.
func (r *Refresher) Finish(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	r.mu.Lock()
	r.finish()
	f := r.flight
	launched := f != nil && f.launched
	r.mu.Unlock()
	if !r.awaitAuthorizing(ctx) {
		return
	}
	if launched {
		select {
		case <-f.done:
		case <-ctx.Done():
			return
		}
	}
	r.mu.Lock()
	unsaved := r.unsaved
	r.mu.Unlock()
	if unsaved {
		kept := make(chan struct{})
		go func() {
			defer close(kept)
			r.keepNow()
		}()
		select {
		case <-kept:
		case <-ctx.Done():
		}
	}
}

// Close ends the refresher. A token request that is under way is waited for,
// up to grace, since its answer may hold a rotated refresh token.
func (r *Refresher) Close(grace time.Duration) {
	r.mu.Lock()
	r.finish()
	if !r.ended {
		close(r.closed)
	}
	r.ended = true
	r.stopTimer()
	f := r.flight
	if f != nil && !f.launched {
		r.flight = nil
		close(f.done)
		f = nil
	}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if f != nil {
		select {
		case <-f.done:
		case <-ctx.Done():
		}
	}
	r.awaitAuthorizing(ctx)
	r.end()
}

// Ended says whether Close was called: there are no new tokens.
func (r *Refresher) Ended() bool {
	select {
	case <-r.closed:
		return true
	default:
		return false
	}
}

var errEnded = &tokensource.Error{Reason: "the token source has been removed from the configuration"}

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

// cause returns err as what it should be; anything else is told without its
// text, which might hold a secret.
func cause(err error) *tokensource.Error {
	if e, ok := errors.AsType[*tokensource.Error](err); ok && e != nil {
		return e
	}
	return &tokensource.Error{Reason: "the token request failed inside"}
}
