// Package refresher keeps one token fresh.
//
// A [Refresher] asks its [Source] for a token before one is needed, renews it
// as a share of its lifetime, makes one token request however many callers
// wait, leaves a failing provider alone for longer and longer, and serves a
// valid token to its last second meanwhile.
//
// refresher.go is what callers see, waiting.go what they wait for, flight.go the
// one renewal that may be under way, renewal.go how a token is obtained and stored
// so that no two nodes spend a refresh token twice, nodes.go how nodes see each
// other, detours.go what is done where they or the storage do not answer, keep.go
// how a token is stored later, authorize.go what comes from a person, watch.go how
// other nodes hear of that, status.go what operators see and do, subjects.go
// where there is a token for each caller, store.go the
// storage, lineage.go what keeps refresh tokens in order within a process,
// schedule.go the arithmetic of time, and refusal.go what happens when an upstream
// does not take a token.
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

	// PerSubject is true where there is no one token, but one for each subject; see
	// Of. The Source must be a SubjectSource then.
	PerSubject bool

	// onDemand is true where requests alone have a token obtained.
	onDemand bool
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

	subjects *subjects // nil unless PerSubject

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
	r := &Refresher{
		options: options, base: base, end: end, closed: make(chan struct{}),
		finishing: finishing, finish: sync.OnceFunc(func() { close(finishing) }), now: time.Now,
	}
	if options.PerSubject {
		r.subjects = newSubjects(r)
	}
	return r
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
		if e.Store.Shared() {
			r.watch()
		}
	}
	r.environments = append(r.environments, e)
	switch {
	case r.flight != nil:
		r.launch()
	case r.options.PerSubject || r.options.onDemand:
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
	if r.subjects != nil {
		r.subjects.forget()
	}
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

// cause returns err as what it should be; anything else is told without its
// text, which might hold a secret.
func cause(err error) *tokensource.Error {
	if e, ok := errors.AsType[*tokensource.Error](err); ok && e != nil {
		return e
	}
	return &tokensource.Error{Reason: "the token request failed inside"}
}
